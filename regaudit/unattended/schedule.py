"""Schedules: when an unattended run comes next, and a loop that keeps to it.

Expressions mean what those of Debian's cron mean: Sunday is 0 and 7; a job at a time of day that a change
of the clock skips runs right after the change, and one at a time that comes twice runs once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from regaudit.errors import UsageError
from regaudit.text import clean

logger = logging.getLogger("regaudit.cleaner")

# The clock may be set while somebody waits: it is looked at again after so many seconds at the latest.
_LOOK_AT_CLOCK_AFTER = 30.0
_LOCAL = Path("/etc/localtime")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}


class Schedule:
    """When something happens again and again.

    Parameters
    ----------
    expression : str
        Five fields as in a crontab: minute, hour, day of the month, month, day of the week; or ``@hourly``,
        ``@daily``, ``@weekly``, ``@monthly``. Where neither day begins with ``*``, one of them suffices.
    timezone : str, optional
        A name such as ``Europe/Berlin``; this machine's own unless given (``TZ``, else /etc/localtime).

    Raises
    ------
    UsageError
        No such expression or time zone, or an expression whose time never comes.

    Examples
    --------
    >>> Schedule("0 3 * * SUN", "UTC").after(datetime(2026, 6, 1, tzinfo=UTC)).isoformat()
    '2026-06-07T03:00:00+00:00'
    """

    def __init__(self, expression: str, timezone: str | None = None) -> None:
        self.zone = _zone(timezone)
        self.expression = expression
        self._fields = _MACROS.get(expression.strip().lower(), expression)
        if len(self._fields.split()) != 5:
            raise UsageError(
                f"{clean(expression, 80)!r} is not a schedule: write minute, hour, day, month and weekday, as in '0 3 * * *'"
            )
        self.after(datetime.now(UTC))

    def after(self, moment: datetime) -> datetime:
        """Return the first time after a moment, in the schedule's time zone."""
        try:
            found: datetime = next(CronSim(self._fields, moment.astimezone(self.zone)))
        except CronSimError as error:
            raise UsageError(
                f"{clean(self.expression, 80)!r} is not a schedule ({clean(error, 80)}): write it as in '0 3 * * *'"
            ) from None
        except StopIteration:
            raise UsageError(
                f"the time of {clean(self.expression, 80)!r} never comes: write it as in '0 3 * * *'"
            ) from None
        return found


def keep_to(
    schedule: Schedule, act: Callable[[datetime], object], *, wait: Callable[[datetime], None] | None = None
) -> None:
    """Act at every time of a schedule, one run after the other, until an exception ends it.

    What became due while a run was under way is not caught up on. `act` is given the time that was due.

    Parameters
    ----------
    wait : callable, optional
        Returns when a time has come; `wait_until` unless given.
    """
    pause = wait or wait_until
    due = schedule.after(datetime.now(UTC))
    while True:
        logger.info("the next run is at %s", due.isoformat())
        pause(due)
        act(due)
        # Not from the clock alone: one that was set back would make the same time come twice.
        now = max(due, datetime.now(UTC))
        missed, due = schedule.after(due), schedule.after(now)
        if missed.astimezone(UTC) < due.astimezone(UTC):
            logger.warning("the run took so long that others were left out, the first at %s", missed.isoformat())


def wait_until(due: datetime) -> None:
    """Wait for a time by the clock on the wall, which may be set meanwhile."""
    while (left := (due - datetime.now(UTC)).total_seconds()) > 0:
        time.sleep(min(left, _LOOK_AT_CLOCK_AFTER))


def _zone(name: str | None) -> ZoneInfo:
    asked = name or os.environ.get("TZ", "").removeprefix(":")
    if not asked:
        return _local()
    try:
        return ZoneInfo(asked)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"{clean(asked, 80)!r} is no time zone that this machine knows: write a name as in 'Europe/Berlin' "
            "(apt-get install tzdata, or pip install tzdata, brings the names)"
        ) from None


def _local() -> ZoneInfo:
    """Return this machine's time zone with its changes, which an offset alone would not have."""
    try:
        with _LOCAL.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError):
        return ZoneInfo("UTC")


__all__ = ["Schedule", "keep_to", "wait_until"]
