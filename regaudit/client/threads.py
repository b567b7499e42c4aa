"""Many conversations at once in threads, over the blocking driver: where pycurl is not installed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Hashable, Iterator
from types import TracebackType
from typing import Any, Self, overload

from regaudit.client.blocking import BlockingDriver
from regaudit.client.bulk import Result
from regaudit.client.exchange import Conversation, Traffic
from regaudit.client.throttle import Gate
from regaudit.client.transport import Interrupted
from regaudit.errors import RegistryError

# What is in flight hears within a quarter of a second that it should end; looking up a name or connecting may not.
_FAREWELL = 1.0
# More of them would only hold each other up.
_MOST_THREADS = 64


class ThreadedDriver:
    """Gives out pools of threads over a blocking driver, whose connections they use."""

    def __init__(self, blocking: BlockingDriver, gate: Gate, most: int) -> None:
        self._blocking, self._gate, self._most = blocking, gate, min(most, _MOST_THREADS)

    def open(self) -> ThreadedBulk:
        """Return a pool of threads."""
        return ThreadedBulk(self._blocking, self._gate, self._most)

    def close(self) -> None:
        """Do nothing: the blocking driver closes what threads use."""


class ThreadedBulk:
    """A `Bulk` of threads, which are made as they are needed."""

    def __init__(self, driver: BlockingDriver, gate: Gate, most: int) -> None:
        self._driver, self._gate, self._most = driver, gate, most
        self._tasks: queue.SimpleQueue[tuple[Hashable, Conversation[Any]] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
        self._before = gate.traffic()
        self._outstanding = 0
        self._busy = 0
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, key: Hashable, conversation: Conversation[Any]) -> None:
        """Run a conversation as soon as there is a place; its result carries the key."""
        self._outstanding += 1
        with self._lock:
            self._busy += 1
            needed = self._busy > len(self._threads) and len(self._threads) < self._most
        self._tasks.put((key, conversation))
        if needed:
            name = f"regaudit-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()

    @overload
    def results(self) -> Iterator[Result]: ...

    @overload
    def results(self, tick_seconds: float) -> Iterator[Result | None]: ...

    def results(self, tick_seconds: float | None = None) -> Iterator[Result | None]:
        """Yield results as they come until nothing is outstanding; None where nothing came for so long."""
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

    @property
    def traffic(self) -> Traffic:
        """What is in flight to the registry, and what has passed since this was opened."""
        return self._gate.traffic(self._before)

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
            result = self._ended(*task)
            with self._lock:
                self._busy -= 1
            self._results.put(result)
            if isinstance(result, Interrupted):  # the driver was closed below us, unless we were cancelled
                return

    def _ended(self, key: Hashable, conversation: Conversation[Any]) -> Result | BaseException:
        try:
            return Result(key, value=self._driver.run(conversation, self._cancelled))
        except RegistryError as error:
            return Result(key, error=error)
        except BaseException as error:  # noqa: BLE001 -- a fault of ours must reach the collecting thread
            return error
