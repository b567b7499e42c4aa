"""What processes do that are killed, or have no room or no rights: each begins anew, and imports nothing but this."""

import os
import resource

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import Plan
from regaudit.client.registry import Registry
from regaudit.errors import JournalError


def apply(host, plan_file, journal, begun):
    """Apply a plan, as ``regaudit apply`` does, in a process of its own."""
    execution._VISIBLE_AFTER = 0.0
    with Registry(host) as registry, Cleaner(registry, journal=journal) as cleaner:
        loaded = Plan.load(plan_file)
        begun.set()
        cleaner.execute(loaded)


def undo(host, run, journal, begun):
    """Undo a run, as ``regaudit undo`` does, in a process of its own."""
    with Registry(host) as registry, Cleaner(registry, journal=journal) as cleaner:
        begun.set()
        cleaner.undo(run)


def apply_on_a_small_disk(host, plan_file, journal, size, answer):
    """Apply a plan where no file can grow beyond a size, and say how it ended."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    _apply(host, plan_file, journal, answer)


def apply_without_rights(host, plan_file, journal, answer):
    """Apply a plan as a user who may read everything and write nothing."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setuid(65534)  # nobody
    _apply(host, plan_file, journal, answer)


def _apply(host, plan_file, journal, answer):
    execution._VISIBLE_AFTER = 0.0
    try:
        with Registry(host) as registry, Cleaner(registry, journal=journal) as cleaner:
            cleaner.execute(Plan.load(plan_file))
        answer.send("done")
    except JournalError as error:
        answer.send(str(error))
