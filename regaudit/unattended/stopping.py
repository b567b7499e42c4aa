"""Stopping: what SIGINT and SIGTERM do to a run that nobody watches.

Between deletions a run may end at any moment: the signal interrupts whatever is waited for. During
deletions the first one lets the deletion in flight come to its end and be recorded; the second interrupts.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Handles both signals from its ``with`` to the end; for the main thread.

    Attributes
    ----------
    asked : bool
        Whether somebody wants an end.
    event : threading.Event
        Set then, for what looks at it between two steps.
    """

    def __init__(self) -> None:
        self.asked = False
        self.event = threading.Event()
        self._gentle = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def gentle(self) -> Iterator[None]:
        """Let the first signal only set `event`, while something runs that looks at it."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if first:  # a second signal may come while the first one sets the event, which would wait for itself
            self.event.set()
        if not (first and self._gentle):
            raise KeyboardInterrupt


__all__ = ["Stopping"]
