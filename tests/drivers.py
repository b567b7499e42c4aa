"""The drivers as tests ask for them: one conversation through whichever they name.

Used so::

    driver = one_by_one("libcurl")
    driver.run(conversation)
    driver.close()
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from regaudit.client.blocking import BlockingDriver
from regaudit.client.bulk import Bulk, bulk_driver
from regaudit.client.exchange import Conversation
from regaudit.client.registry import Registry
from regaudit.client.throttle import Gate
from regaudit.client.transport import Transport

DRIVERS = ("blocking", "libcurl")
BULK_DRIVERS = ("libcurl", "threads")


class OneByOne:
    """The libcurl driver with the interface of the blocking one."""

    def __init__(self, transport: Transport) -> None:
        gate = Gate(transport.in_flight)
        self._blocking = BlockingDriver(transport, gate)
        self._driver = bulk_driver("libcurl", transport, gate, self._blocking)

    def run(self, conversation: Conversation[Any]) -> Any:
        return only_result(self._driver.open(), conversation)

    def close(self) -> None:
        self._driver.close()
        self._blocking.close()


def one_by_one(name: str, transport: Transport | None = None) -> Any:
    """Return a driver that runs one conversation at a time."""
    transport = transport or Transport()
    return OneByOne(transport) if name == "libcurl" else BlockingDriver(transport, Gate(transport.in_flight))


def through_bulk(registry: Registry, conversation: Conversation[Any]) -> Any:
    """Run a conversation as `Registry.run` does, by a bulk of one."""
    try:
        bulk = registry.bulk()
    except BaseException:
        conversation.close()
        raise
    return only_result(bulk, conversation)


def only_result(bulk: Bulk, conversation: Conversation[Any]) -> Any:
    with bulk:
        bulk.submit("only", conversation)
        [result] = bulk.results()
    if result.error is not None:
        raise result.error
    return result.value


def interrupt_when(event):
    """Press Ctrl-C as soon as something has happened."""
    main = threading.main_thread().ident

    def press():
        assert event.wait(10)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread
