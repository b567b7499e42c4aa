"""Many conversations in one thread: which of them goes on next, over a wire that does the I/O.

Everything happens in the thread that iterates `results`: no thread and no event loop of its own, so that it works
inside a notebook's, and Ctrl-C arrives where it is typed.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, overload

from regaudit.client.bulk import Result
from regaudit.client.exchange import BUSY, Conversation, Once, Pause, Request, Response, Traffic, Wait
from regaudit.client.throttle import Gate, Ticket
from regaudit.client.transport import Interrupted
from regaudit.errors import RegistryError, TimedOut

# How long it may take to see that another thread has given its place at the gate back.
_PLACE_SECONDS = 0.02


class Arrival(Protocol):
    """An exchange that has ended."""

    request: Request
    context: Any
    response: Response | None
    error: BaseException | None
    seconds: float | None


class Wire(Protocol):
    """What does the I/O: exchanges that are started, and end in any order."""

    def start(self, request: Request, context: Any) -> None:
        """Prepare an exchange; `context` comes back with its end."""

    def launch(self) -> None:
        """Begin with what was prepared."""

    def listen(self, seconds: float | None) -> list[Any]:
        """Wait for so many seconds at most until there is work, and return it."""

    def work(self, events: list[Any]) -> Sequence[Arrival]:
        """Do some work, and return the exchanges that have ended."""

    def wake(self) -> None:
        """Let `listen` return, from any thread."""

    def abandon(self) -> list[Any]:
        """Break off what is under way, and return the contexts of it."""


class Interrupts:
    """Lets Ctrl-C wait for the end of a step, so that no place in flight is lost.

    And pycurl prints and forgets what its callbacks raise, where nobody would see it stop.
    """

    def __init__(self) -> None:
        self._before: Callable[[int, Any], Any] | None = None
        self._busy = False
        self._put_off: list[tuple[int, Any]] = []

    def install(self) -> None:
        """Stand in front of whoever is called at Ctrl-C."""
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            self._before = handler
            signal.signal(signal.SIGINT, self._arrived)

    def remove(self) -> None:
        """Step back."""
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._arrived:
            signal.signal(signal.SIGINT, self._before)

    def __enter__(self) -> Self:
        self._busy = True
        return self

    def __exit__(self, *_: object) -> None:
        self._busy = False
        while self._put_off and self._before is not None:
            self._before(*self._put_off.pop())

    def _arrived(self, number: int, frame: Any) -> None:
        if self._busy:
            self._put_off.append((number, frame))
        elif self._before is not None:
            self._before(number, frame)


class _Task:
    """A conversation under way, or one that several others wait for."""

    __slots__ = ("conversation", "key", "shared", "waiters")

    def __init__(self, key: Hashable, conversation: Conversation[Any], *, shared: bool = False) -> None:
        self.key = key
        self.conversation = conversation
        self.shared = shared
        self.waiters: list[_Task] = []


class MultiBulk:
    """A `Bulk` in the thread that iterates its results.

    What was begun goes before what was not, each in the order of its asking; no more conversations are under way
    than requests may be in flight.

    Parameters
    ----------
    most : int
        How many conversations may be under way.
    stopped : callable
        Whether the registry was closed.
    done : callable
        Takes the wire back.
    """

    def __init__(
        self, wire: Wire, gate: Gate, most: int, stopped: Callable[[], bool], done: Callable[[MultiBulk], None]
    ) -> None:
        self.wire = wire
        self._gate, self._most, self._stopped, self._done = gate, most, stopped, done
        self._new: deque[_Task] = deque()
        self._asking: deque[tuple[_Task, Request]] = deque()
        self._waits: list[tuple[float, int, _Task]] = []
        self._once: dict[Hashable, _Task] = {}
        self._results: deque[Result | BaseException] = deque()
        self._numbers = itertools.count()
        self._outstanding = self._live = self._flying = 0
        self._before = gate.traffic()
        self._cancelled = False
        self._interrupts = Interrupts()

    def submit(self, key: Hashable, conversation: Conversation[Any]) -> None:
        """Run a conversation as soon as there is a place; its result carries the key."""
        self._outstanding += 1
        self._new.append(_Task(key, conversation))

    @overload
    def results(self) -> Iterator[Result]: ...

    @overload
    def results(self, tick_seconds: float) -> Iterator[Result | None]: ...

    def results(self, tick_seconds: float | None = None) -> Iterator[Result | None]:
        """Yield results as they come until nothing is outstanding; None where nothing came for so long."""
        heard = time.monotonic()
        while self._outstanding and not self._cancelled:
            if not self._results:
                self._advance(tick_seconds)
                if tick_seconds is not None and not self._results and time.monotonic() - heard >= tick_seconds:
                    heard = time.monotonic()
                    yield None
                continue
            heard = time.monotonic()
            self._outstanding -= 1
            result = self._results.popleft()
            if isinstance(result, BaseException):
                raise result
            yield result

    def cancel(self) -> None:
        """Start nothing more and break off what is in flight; any thread may ask for it."""
        self._cancelled = True
        self.wire.wake()

    @property
    def traffic(self) -> Traffic:
        """What is in flight to the registry, and what has passed since this was opened."""
        return self._gate.traffic(self._before)

    def __enter__(self) -> Self:
        self._interrupts.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled = True
        with self._interrupts:
            self._break_off()
            self._done(self)
            self._interrupts.remove()

    def _break_off(self) -> None:
        """End everything that is under way, and give all places back."""
        flying: list[tuple[_Task, Ticket]] = self.wire.abandon()
        for _, ticket in flying:
            self._gate.leave(ticket, good=True)
        shared = self._once.values()
        waiting = [task for *_, task in self._waits] + [waiter for task in shared for waiter in task.waiters]
        for task in (*self._new, *(task for task, _ in (*flying, *self._asking)), *waiting):
            task.conversation.close()

    # -- one step of all ----------------------------------------------------------------------

    def _advance(self, longest: float | None) -> None:
        """Wait until something can go on, for so many seconds at most, and let it."""
        patience = self._patience()
        events = self.wire.listen(longest if patience is None or (longest or patience) < patience else patience)
        if self._stopped():
            raise Interrupted
        with self._interrupts:
            for arrival in self.wire.work(events):
                self._take(arrival)
            self._wake_up()
            self._start()
            self.wire.launch()

    def _wake_up(self) -> None:
        now = time.monotonic()
        while self._waits and self._waits[0][0] <= now:
            self._step(heapq.heappop(self._waits)[2])

    def _start(self) -> None:
        """Begin requests while there is a place; conversations that are new only where nobody else asks."""
        while len(self._results) < self._most and not self._cancelled:
            if not self._asking:
                if not self._new or self._live >= self._most:
                    return
                self._live += 1
                self._step(self._new.popleft())
                continue
            ticket = self._gate.try_enter()
            if ticket is None:
                return
            self._flying += 1
            self.wire.start(self._asking[0][1], (self._asking[0][0], ticket))
            self._asking.popleft()

    def _patience(self) -> float | None:
        """Return how long nothing can happen but on the wire; None for ever."""
        if self._new and not self._asking and self._live < self._most:
            return 0
        now = time.monotonic()
        wait = self._waits[0][0] - now if self._waits else None
        if self._asking:
            pausing = self._gate.pausing
            # a place that is ours comes back by the wire; another thread's does not
            place = pausing or (None if self._flying else _PLACE_SECONDS)
            wait = place if wait is None else wait if place is None else min(wait, place)
        return None if wait is None else max(0.0, wait)

    def _take(self, arrival: Arrival) -> None:
        task, ticket = arrival.context
        self._flying -= 1
        self._leave(arrival, ticket)
        error = arrival.error
        if error is None or isinstance(error, RegistryError):
            self._step(task, arrival.response, error)
        else:
            self._end(task, None, error)

    def _leave(self, arrival: Arrival, ticket: Ticket) -> None:
        response = arrival.response
        self._gate.leave(
            ticket,
            good=not isinstance(arrival.error, TimedOut) if response is None else response.status not in BUSY,
            purpose=arrival.request.purpose,
            seconds=arrival.seconds,
            received=None if response is None else response.received,
        )

    # -- one conversation ---------------------------------------------------------------------

    def _step(self, task: _Task, value: Any = None, error: RegistryError | None = None) -> None:
        """Let a conversation go on until it asks for something that takes time, or ends."""
        conversation = task.conversation
        while True:
            try:
                step = conversation.send(value) if error is None else conversation.throw(error)
            except StopIteration as end:
                return self._end(task, end.value, None)
            except Exception as fault:  # noqa: BLE001 -- a fault of ours must reach whoever collects
                return self._end(task, None, fault)
            value = error = None
            if isinstance(step, Request):
                return self._asking.append((task, step))
            if isinstance(step, Wait):
                return self._wait(task, step)
            if isinstance(step, Once):
                return self._share(task, step)
            pause: Pause = step
            self._gate.pause(pause.seconds)

    def _wait(self, task: _Task, wait: Wait) -> None:
        if wait.everyone:
            self._gate.pause(wait.seconds)
        heapq.heappush(self._waits, (time.monotonic() + wait.seconds, next(self._numbers), task))

    def _share(self, task: _Task, once: Once) -> None:
        """Run a conversation unless it is under way already; in both cases wait for what it comes to."""
        shared = self._once.get(once.key)
        if shared is not None:
            once.conversation.close()
            shared.waiters.append(task)
            return
        shared = self._once[once.key] = _Task(once.key, once.conversation, shared=True)
        shared.waiters.append(task)
        self._step(shared)

    def _end(self, task: _Task, value: Any, error: BaseException | None) -> None:
        task.conversation.close()
        if task.shared:
            return self._share_out(task, value, error)
        self._live -= 1
        if error is None or isinstance(error, RegistryError):
            self._results.append(Result(task.key, value, error))
        else:
            self._results.append(error)
        return None

    def _share_out(self, shared: _Task, value: Any, error: BaseException | None) -> None:
        del self._once[shared.key]
        for task in shared.waiters:
            if error is None or isinstance(error, RegistryError):
                self._step(task, value, None if error is None else error.with_traceback(None))
            else:
                self._end(task, None, error)
