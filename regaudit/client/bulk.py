"""Running many conversations at once: what an audit uses.

Whoever collects results is one thread, so that tables are filled without locks; it may submit more
conversations while it collects. libcurl runs them where pycurl is installed, all in that thread; else the
blocking driver does, in threads. The results are the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, overload

from regaudit.client.blocking import BlockingDriver
from regaudit.client.exchange import Conversation, Traffic
from regaudit.client.throttle import Gate
from regaudit.client.transport import Transport
from regaudit.errors import MissingExtra, RegistryError, UsageError
from regaudit.text import clean


class Result(NamedTuple):
    """How a conversation ended: `key` as submitted, and either a value or an error."""

    key: Hashable
    value: Any = None
    error: RegistryError | None = None


class Bulk(Protocol):
    """Runs conversations and gives their results as they come.

    Leaving the ``with`` block, by an exception or `KeyboardInterrupt` too, stops it: what is under way
    is broken off, and nothing is left running.
    """

    def submit(self, key: Hashable, conversation: Conversation[Any]) -> None:
        """Run a conversation as soon as there is a place; its result carries the key."""

    @overload
    def results(self) -> Iterator[Result]: ...

    @overload
    def results(self, tick_seconds: float) -> Iterator[Result | None]: ...

    def results(self, tick_seconds: float | None = None) -> Iterator[Result | None]:
        """Yield results as they come until nothing is outstanding, what was submitted meanwhile included.

        Ends early only after `cancel`. Yields None where nothing came for so long, if that is given.
        """

    def cancel(self) -> None:
        """Start nothing more and break off what is in flight; any thread may ask for it."""

    @property
    def traffic(self) -> Traffic:
        """What is in flight to the registry, and what has passed since this was opened."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def choose_driver(name: str | None) -> str:
    """Return which driver runs many conversations: the one named, else ``libcurl`` where pycurl is installed.

    Raises
    ------
    UsageError
        There is no driver of that name, or pycurl is missing; the message says what to type.
    """
    if name not in {None, "libcurl", "threads"}:
        raise UsageError(f"driver={clean(name)!r} is unknown: give 'libcurl', 'threads' or None")
    if name == "threads":
        return name
    if usable_pycurl():
        return "libcurl"
    if name == "libcurl":
        raise MissingExtra(
            "driver='libcurl' needs pycurl, at least of version 7.45.7: "
            'pip install "regaudit[fast]", or leave driver= out'
        )
    return "threads"


def usable_pycurl() -> bool:
    """Return whether pycurl is installed in a version that the driver can use."""
    if importlib.util.find_spec("pycurl") is None:
        return False
    try:
        import pycurl
    except ImportError:  # it is there, and its libcurl is not
        return False
    # the youngest of what the driver needs: it shows an address before anything is sent there
    return hasattr(pycurl, "PREREQFUNCTION")


class BulkDriver(Protocol):
    """Gives a `Bulk` to whoever asks, and keeps connections from one to the next."""

    def open(self) -> Bulk:
        """Return a `Bulk`."""

    def close(self) -> None:
        """End what is under way, and close all connections."""


def bulk_driver(name: str | None, transport: Transport, gate: Gate, blocking: BlockingDriver) -> BulkDriver:
    """Return the driver of a name, as `choose_driver` understands it."""
    if choose_driver(name) == "threads":
        from regaudit.client.threads import ThreadedDriver

        return ThreadedDriver(blocking, gate, transport.in_flight)
    from regaudit.client.libcurl import LibcurlDriver

    return LibcurlDriver(transport, gate)
