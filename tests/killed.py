"""What processes do that are killed: a module of its own, which imports nothing but what they need, for each begins anew."""

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import Plan
from regaudit.client.registry import Registry


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
