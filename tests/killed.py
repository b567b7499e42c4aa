"""What processes do that are killed, or have no room or no rights: each begins anew, and imports nothing but this."""

import itertools
import os
import resource
import signal

from regaudit.analysis.report import report
from regaudit.cleaner import execution, surroundings
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.plan import Plan
from regaudit.client.registry import Registry
from regaudit.errors import JournalError
from regaudit.inventory.snapshot import Snapshot


def apply(host, plan_file, journal, begun):
    """Apply a plan, as ``regaudit apply`` does, in a process of its own."""
    execution._VISIBLE_AFTER = 0.0
    with Registry(host) as registry, Cleaner(registry, journal=journal) as cleaner:
        loaded = Plan.load(plan_file)
        begun.set()
        cleaner.execute(loaded)


def apply_and_die(host, plan_file, journal, point, count):
    """Apply a plan and kill this process with SIGKILL at a named point, after it was passed so many times."""
    place, name, late, only = POINTS[point]
    original, left = getattr(place, name), itertools.count(count, -1)

    def dying(*args, **kwargs):
        now = only(*args) and next(left) == 0
        if now and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, name, dying)
    with Registry(host) as registry, Cleaner(registry, journal=journal) as cleaner:
        cleaner.execute(Plan.load(plan_file))


def _always(*_):
    return True


def _records(event):
    return lambda journal, run, recorded, *_: recorded == event


# What is called there, whether it still does its work, and which of its calls are meant.
POINTS = {
    "the list was not read": (surroundings.Surroundings, "look", False, _always),
    "before the intent": (Journal, "record_intent", False, _always),
    "in the middle of recording the intent": (Journal, "_add", True, _records("intent")),
    "between intent and request": (execution.Execution, "_request", False, _always),
    "between request and outcome": (execution, "_alive", False, _always),
    "in the middle of recording the outcome": (Journal, "_add", True, _records("outcome")),
    "between outcomes": (execution, "record_outcome", True, _always),
    "while checking what stays": (execution.Execution, "_check_kept", False, _always),
    "before the end": (Journal, "record", True, _records("finished")),
}


def undo(host, run, journal, begun):
    """Undo a run, as ``regaudit undo`` does, in a process of its own."""
    with Registry(host) as registry, Cleaner(registry, journal=journal) as cleaner:
        begun.set()
        cleaner.undo(run)


def write_for_ever(plan_file, snapshot_folder, folder, begun):
    """Write a plan and a report over and over, as their commands do."""
    snapshot, made = Snapshot.load(snapshot_folder), Plan.load(plan_file)
    report(snapshot, folder)  # so that what is imported late does not take the time in which it is killed
    begun.set()
    for number in itertools.count():
        made.approve(by=f"Ada {number}").save(plan_file)
        report(snapshot, folder)


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
