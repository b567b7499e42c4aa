"""Running many conversations at once: what an audit uses.

Whoever collects results is one thread, so that tables are filled without locks; it may submit more
conversations while it collects. Here the conversations run in a pool of threads over the blocking
driver.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, overload

from regaudit.client.blocking import BlockingDriver, Interrupted
from regaudit.client.exchange import Conversation, Traffic
from regaudit.errors import RegistryError

# What is in flight hears within a quarter of a second that it should end; looking up a name or connecting may not.
_FAREWELL = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a conversation ended: `key` as submitted, and either a value or an error."""

    key: Hashable
    value: Any = None
    error: RegistryError | None = None


class Bulk:
    """A pool that runs conversations and gives their results as they come.

    Leaving the ``with`` block, by an exception or `KeyboardInterrupt` too, stops it: what is under way
    is broken off, and nothing is left running.
    """

    def __init__(self, driver: BlockingDriver, workers: int) -> None:
        self._driver = driver
        self._tasks: queue.SimpleQueue[tuple[Hashable, Conversation[Any]] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
        self._outstanding = 0
        self._cancelled = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"regaudit-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, key: Hashable, conversation: Conversation[Any]) -> None:
        """Run a conversation as soon as there is a place; its result carries the key."""
        self._outstanding += 1
        self._tasks.put((key, conversation))

    @property
    def traffic(self) -> Traffic:
        """What is in flight to the registry, and what has been received from it."""
        return self._driver.traffic

    @overload
    def results(self) -> Iterator[Result]: ...

    @overload
    def results(self, tick_seconds: float) -> Iterator[Result | None]: ...

    def results(self, tick_seconds: float | None = None) -> Iterator[Result | None]:
        """Yield results as they come until nothing is outstanding, what was submitted meanwhile included.

        Ends early only after `cancel`. Yields None where nothing came for so long, if that is given.
        """
        while self._outstanding:
            try:
                result = self._results.get(timeout=tick_seconds)
            except queue.Empty:
                yield None
                continue
            if result is None or self._cancelled.is_set():
                return
            self._outstanding -= 1
            if isinstance(result, BaseException):
                raise result
            yield result

    def cancel(self) -> None:
        """Start nothing more and break off what is in flight; any thread may ask for it."""
        self._cancelled.set()
        self._results.put(None)  # wakes up whoever waits for a result
        for _ in self._threads:
            self._tasks.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        until = time.monotonic() + _FAREWELL
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            key, conversation = task
            try:
                self._results.put(Result(key, value=self._driver.run(conversation, self._cancelled)))
            except RegistryError as error:
                self._results.put(Result(key, error=error))
            except Interrupted as interruption:
                self._results.put(interruption)  # the driver was closed below us, unless we were cancelled
                return
            except BaseException as error:  # noqa: BLE001 -- a fault of ours must reach the collecting thread
                self._results.put(error)
