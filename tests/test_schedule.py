"""A schedule means what cron means: Sunday twice, steps and ranges, and the two nights on which clocks are changed."""

import os
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from regaudit.errors import UsageError
from regaudit.unattended import schedule as module
from regaudit.unattended.schedule import Schedule, keep_to

BERLIN = "Europe/Berlin"


def times(expression, start, count, zone="UTC"):
    """Return the next times of a schedule after a local time, as a person writes them."""
    made, moment, found = Schedule(expression, zone), datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)), []
    for _ in range(count):
        moment = made.after(moment)
        found.append(moment.strftime("%a %m-%d %H:%M") + (moment.strftime(" %z") if zone != "UTC" else ""))
    return found


@pytest.mark.parametrize("sunday", ["0", "7", "SUN", "sun"])
def test_sunday_is_0_and_7_and_has_a_name(sunday):
    assert times(f"0 3 * * {sunday}", "2026-06-01", 2) == ["Sun 06-07 03:00", "Sun 06-14 03:00"]


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("*/20 9 * * *", ["Mon 06-01 09:00", "Mon 06-01 09:20", "Mon 06-01 09:40", "Tue 06-02 09:00"]),
        ("0 3 * * 1-5/2", ["Mon 06-01 03:00", "Wed 06-03 03:00", "Fri 06-05 03:00", "Mon 06-08 03:00"]),
        ("0 3 * * 5-7", ["Fri 06-05 03:00", "Sat 06-06 03:00", "Sun 06-07 03:00", "Fri 06-12 03:00"]),
        ("0 3 * * MON,SAT", ["Mon 06-01 03:00", "Sat 06-06 03:00", "Mon 06-08 03:00", "Sat 06-13 03:00"]),
        ("30 1-7/3 1 JAN,JUL *", ["Wed 07-01 01:30", "Wed 07-01 04:30", "Wed 07-01 07:30", "Fri 01-01 01:30"]),
        ("0 0 13 * FRI", ["Fri 06-05 00:00", "Fri 06-12 00:00", "Sat 06-13 00:00", "Fri 06-19 00:00"]),
        ("@weekly", ["Sun 06-07 00:00", "Sun 06-14 00:00", "Sun 06-21 00:00", "Sun 06-28 00:00"]),
    ],
)
def test_steps_ranges_names_and_two_kinds_of_days_are_those_of_cron(expression, found):
    assert times(expression, "2026-06-01", 4) == found


def test_a_time_that_is_skipped_in_spring_comes_right_after_the_change():
    assert times("30 2 * * *", "2026-03-28", 3, BERLIN) == [
        "Sat 03-28 02:30 +0100",
        "Sun 03-29 03:00 +0200",
        "Mon 03-30 02:30 +0200",
    ]


def test_a_time_that_is_there_twice_in_autumn_comes_once():
    assert times("30 2 * * *", "2026-10-24T12:00", 2, BERLIN) == ["Sun 10-25 02:30 +0200", "Mon 10-26 02:30 +0100"]


def test_what_comes_every_half_hour_goes_on_through_the_change():
    found = times("*/30 * * * *", "2026-10-25T01:40", 5, BERLIN)
    assert found == [
        f"Sun 10-25 {t}" for t in ("02:00 +0200", "02:30 +0200", "02:00 +0100", "02:30 +0100", "03:00 +0100")
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "0 3 * *",
        "* * * * * *",
        "60 * * * *",
        "0 24 * * *",
        "0 3 0 * *",
        "0 3 * * 8",
        "*/0 * * * *",
        "0 0 31 2 *",
        "0 3 * * FRI-SUN",
        "@reboot",
    ],
)
def test_what_is_no_schedule_is_refused_with_one_that_is(expression):
    with pytest.raises(UsageError, match="0 3 \\* \\* \\*"):
        Schedule(expression, "UTC")


@pytest.mark.parametrize("name", ["Mars/Base", "../../etc/passwd", "/etc/localtime"])
def test_a_time_zone_that_is_none_is_refused(name):
    with pytest.raises(UsageError, match="Europe/Berlin"):
        Schedule("@daily", name)


def test_the_time_zone_is_the_one_named_else_that_of_the_environment_else_the_machines(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert str(Schedule("@daily").zone) == "Asia/Tokyo"
    assert str(Schedule("@daily", "UTC").zone) == "UTC"
    monkeypatch.delenv("TZ")
    offset = datetime.fromtimestamp(1.8e9, UTC).astimezone().utcoffset()
    assert datetime.fromtimestamp(1.8e9, Schedule("@daily").zone).utcoffset() == offset


def test_a_machine_without_a_time_zone_goes_by_utc(monkeypatch, tmp_path):
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.setattr(module, "_LOCAL", tmp_path / "nothing")
    assert str(Schedule("@daily").zone) == "UTC"
    assert "TZ" not in os.environ


class Clock(datetime):
    """A clock that stands where it was set."""

    at = datetime(2026, 6, 1, 2, 30, tzinfo=UTC)

    @classmethod
    def now(cls, tz=None):
        return cls.at.astimezone(tz)


class End(Exception):
    pass


def kept(monkeypatch, expression, lengths):
    """Keep to a schedule with runs that take so long, and return when they began."""
    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(Clock, "at", Clock.at)
    begun, left = [], list(lengths)

    def wait(due):
        Clock.at = max(Clock.at, due)

    def act(due):
        if not left:
            raise End
        begun.append(due.strftime("%d %H:%M"))
        Clock.at += left.pop(0)

    with pytest.raises(End):
        keep_to(Schedule(expression, "UTC"), act, wait=wait)
    return begun


def test_runs_do_not_overlap_and_what_was_due_meanwhile_is_left_out_and_said(monkeypatch, caplog):
    lengths = [timedelta(minutes=5), timedelta(hours=2, minutes=10), timedelta(0)]
    assert kept(monkeypatch, "0 * * * *", lengths) == ["01 03:00", "01 04:00", "01 07:00"]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "the run took so long that others were left out, the first at 2026-06-01T05:00:00+00:00"
    ]


def test_a_clock_that_is_set_back_makes_nothing_run_twice(monkeypatch):
    assert kept(monkeypatch, "0 3 * * *", [timedelta(hours=-5), timedelta(0)]) == ["01 03:00", "02 03:00"]


def test_waiting_ends_when_the_time_has_come(monkeypatch):
    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(Clock, "at", Clock.at)
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        Clock.at += timedelta(seconds=seconds)

    monkeypatch.setattr(module.time, "sleep", sleep)
    module.wait_until(Clock.at + timedelta(seconds=70))
    assert sum(waited) == 70
    assert max(waited) <= 30
