"""A real docker-registry behind a line that breaks: what is read is whole or said not to be, and what is deleted is known.

Each test goes through the public door, on both drivers that read many things at once.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import threading
from pathlib import Path

import pytest
from conftest import NOW
from docker_registry import DockerRegistry, push_repository
from hostile import Cut, Stall, reply, session
from proxy import FaultProxy, storm

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.client import v2, write
from regaudit.client.exchange import DELETE_DEADLINE, READ_DEADLINE
from regaudit.client.registry import Registry
from regaudit.errors import PlanError, RegistryError, Unreachable
from regaudit.inventory.collect import collect
from regaudit.inventory.tables import TABLES
from regaudit.reference import Digest
from regaudit.sandbox.sample import sample_images

NAME = "charts/checkout"
IMAGES = "tools/ci/builder"


@pytest.fixture(scope="module")
def small(docker_registry_program, tmp_path_factory):
    """Give a real registry with two repositories: read only."""
    with DockerRegistry(tmp_path_factory.mktemp("small")) as server, Registry(server.host) as door:
        sample = sample_images(NOW)
        push_repository(door, sample.repository(NAME))
        push_repository(door, sample.repository(IMAGES))
        yield server


@pytest.fixture
def own(small, tmp_path):
    """Give a real registry of the test's own with the same content, to delete from."""
    with DockerRegistry(tmp_path / "own", storage=Path(shutil.copytree(small.storage, tmp_path / "copy"))) as server:
        yield server


@pytest.fixture
def front(small):
    with FaultProxy(small.host) as proxy:
        yield proxy


def read(host, *patterns, **options):
    with Registry(host, **options) as door:
        return collect(door, *patterns, progress=False, cache=None)


def rows(snapshot):
    """Return all that a snapshot says, but for times of reading and the address."""
    found = {}
    for name in TABLES:
        frame = snapshot.tables[name].drop(columns=["registry", "seen_at"], errors="ignore").astype("string")
        found[name] = sorted(map(str, frame.itertuples(index=False, name=None)))
    return found


def impatient(monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


# -- reading ---------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.usefixtures("each_bulk")
def test_under_refusals_and_resets_the_tables_are_those_of_a_fair_day(small, front):
    """A tenth 429 or 503, a fiftieth reset or broken off; `benchmarks/resilience.py` does the same on 10,000 tags."""
    baseline = read(small.host)
    front.rule = storm(seed=3)
    found = read(front.host, busy_tries=20, tries=8)
    assert rows(found) == rows(baseline)
    assert found.complete
    assert len(front.requests) > sum(baseline.requests.values()) * 1.05, "and it was bad weather"


KINDS = {
    "tags": lambda path: path.endswith("/tags/list"),
    "manifest": lambda path: path.endswith("/manifests/latest"),
    "child": lambda path: "/manifests/sha256:" in path,
    "config": lambda path: "/blobs/" in path,
    "catalog": lambda path: path == "/v2/_catalog",
}


@pytest.mark.real
@pytest.mark.usefixtures("each_bulk")
@pytest.mark.parametrize("kind", KINDS)
def test_wherever_an_answer_is_cut_an_audit_says_what_is_missing_and_nothing_there_can_be_deleted(small, front, kind):
    """At eight places of its headers and its body, with FIN and with RST in turn. A catalog that fails returns nothing."""
    baseline = rows(read(small.host, IMAGES))
    for eighth in range(8):

        def cut(seen, pass_on, eighth=eighth):
            raw = pass_on()
            return Cut(raw, (len(raw) - 1) * eighth // 7, reset=bool(eighth % 2)) if KINDS[kind](seen.path) else raw

        front.rule = cut
        found = read(front.host, IMAGES if kind != "catalog" else "tools/**", tries=1)
        assert not found.complete
        assert found.problems["blocking"].any()
        kept = found.tags.dropna(subset=["digest"])
        assert all(
            any(tag in row and digest in row for row in baseline["tags"])
            for tag, digest in zip(kept["tag"], kept["digest"], strict=True)
        )
        names = [f"{IMAGES}:{tag}" for tag in found.tags["tag"]]
        assert plan(found, names, allow_empty=True).rows == ()


@pytest.mark.real
@pytest.mark.usefixtures("each_bulk")
def test_reads_that_were_reset_before_they_were_answered_are_asked_again(small, front):
    baseline, turn = read(small.host, NAME), itertools.count(1)
    front.rule = lambda seen, pass_on: Cut(b"", 0, reset=True) if next(turn) % 4 == 0 else pass_on()
    found = read(front.host, NAME, tries=5)
    assert rows(found) == rows(baseline)
    assert len(front.requests) == sum(found.requests.values()) > sum(baseline.requests.values())


@pytest.mark.real
@pytest.mark.usefixtures("each_bulk")
def test_a_registry_that_is_killed_and_started_in_the_middle_of_an_audit_is_read_whole(own):
    baseline, restarted = rows(read(own.host)), threading.Event()

    def restart(progress):
        if progress.tags_total and not restarted.is_set():
            restarted.set()
            own.restart()

    with Registry(own.host, tries=10) as door:
        found = collect(door, progress=restart, cache=None)
    assert restarted.is_set()
    assert rows(found) == baseline


@pytest.mark.usefixtures("each_bulk")
@pytest.mark.parametrize("after", ["99999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_of_years_is_said_at_once_and_not_begun(hostile, after):
    date = {"Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    hostile.on("GET /v2/", reply(json={}))
    hostile.on("*", reply(503, headers={"Retry-After": after, **date}))
    found = read(hostile.host, "team/app")
    assert len(hostile.seen("GET /v2/team/app/tags/list")) == 1
    assert found.problems[["error", "blocking"]].values.tolist() == [["rate_limited", True]]
    assert "asks to wait" in found.problems["message"][0]


@pytest.mark.usefixtures("each_bulk")
def test_a_stalled_answer_ends_its_own_repository_and_no_other(hostile):
    hostile.on("GET /v2/", reply(json={}))
    hostile.on("GET /v2/team/slow/tags/list", Stall(reply(json={"name": "team/slow", "tags": ["a"]})[:60]))
    hostile.on("GET /v2/team/app/tags/list", reply(json={"name": "team/app", "tags": []}))
    found = read(hostile.host, "team/slow", "team/app", tries=1, stall_timeout=0.3)
    assert found.unread == {"team/slow"}
    assert found.problems["error"].tolist() == ["timeout"]


def test_the_deadlines_are_a_minute_for_what_is_read_and_two_for_a_deletion():
    digest = Digest("sha256:" + "0" * 64)
    reading, deleting = v2.tags(session(), "team/app"), write.delete_manifest(session(), "team/app", digest)
    assert (next(reading).deadline, next(deleting).deadline) == (60.0, 120.0) == (READ_DEADLINE, DELETE_DEADLINE)
    blob = v2.get_blob(session(), "team/app", digest)
    assert next(blob).method == "GET"


# -- the address -----------------------------------------------------------------------------


@pytest.mark.real
def test_a_name_that_leads_elsewhere_at_the_time_of_the_deletion_is_followed_and_one_that_is_gone_is_said(
    own, tmp_path, monkeypatch
):
    """What a plan is for is a name and a port; only threads can be led on, since libcurl answers for ``.localhost`` itself."""
    impatient(monkeypatch)
    where, looked_up = ["127.0.0.1"], socket.getaddrinfo

    def led(host, port, *arguments, **options):
        if host != "moved.localhost":
            return looked_up(host, port, *arguments, **options)
        if not where:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return looked_up(where[0], port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", led)
    with (
        FaultProxy(own.host) as first,
        FaultProxy(own.host, address=("127.0.0.2", first.port)) as second,
        Registry(f"moved.localhost:{first.port}", driver="threads", tries=1) as door,
    ):
        snapshot = collect(door, progress=False, cache=None)
        tags = sorted(snapshot.tags["tag"])
        made = [plan(snapshot, [f"{NAME}:{tag}"]).approve("Ada") for tag in tags[:2]]
        door.close()
        where[0] = "127.0.0.2"
        before = len(first.requests)
        with Registry(f"moved.localhost:{first.port}", driver="threads", tries=1) as again:
            with Cleaner(again, journal=tmp_path / "journal.sqlite") as cleaner:
                assert set(cleaner.execute(made[0]).counts()) == {"deleted"}
            where.clear()
        with (
            Registry(f"moved.localhost:{first.port}", driver="threads", tries=1) as gone,
            Cleaner(gone, journal=tmp_path / "journal.sqlite") as cleaner,
        ):
            run = cleaner.execute(made[1])
            assert run.stopped or not run.ok
            assert "deleted" not in run.counts()
        assert len(first.requests) == before
        sent = {s.path.rpartition("/")[2] for s in second.requests if s.method == "DELETE"}
        assert {row.digest for row in made[0].rows} <= sent, "and the probe"
        assert not {row.digest for row in made[1].rows} & sent
    with (
        Registry(own.host) as other,
        Cleaner(other, journal=tmp_path / "journal.sqlite") as cleaner,
        pytest.raises(PlanError, match=r"the plan is for moved\.localhost"),
    ):
        cleaner.execute(made[0])


def test_a_registry_whose_name_nobody_knows_is_said_and_nothing_is_returned():
    for driver in ("libcurl", "threads"):
        with (
            Registry("registry.invalid", driver=driver, tries=1) as door,
            pytest.raises(Unreachable, match="cannot be reached"),
        ):
            collect(door, progress=False)


# -- deleting --------------------------------------------------------------------------------


def lost(seen, pass_on):
    pass_on()
    return Cut(b"", 0, reset=True)


def never_sent(seen, pass_on):
    return Cut(b"", 0, reset=True)


def half(seen, pass_on):
    raw = pass_on()
    return Cut(raw, len(raw) // 2)


def twice(seen, pass_on):
    """Carry it out two times, as a proxy that tries again does, and tell of the second."""
    pass_on()
    return pass_on()


def failed_after(seen, pass_on):
    pass_on()
    return reply(502, b"<html>bad gateway")


# How the line treats a DELETE, and what is then true and must be recorded.
LINES = {
    "nothing happens": (lambda seen, pass_on: pass_on(), {"deleted"}, True),
    "the reply is lost": (lost, {"deleted_unconfirmed"}, True),
    "it is never sent": (never_sent, {"not_deleted"}, False),
    "half the reply is lost": (half, {"deleted_unconfirmed"}, True),
    "it is carried out twice": (twice, {"already_absent"}, True),
    "a proxy fails after it": (failed_after, {"deleted_unconfirmed"}, True),
}


@pytest.mark.real
@pytest.mark.usefixtures("each_driver")
@pytest.mark.parametrize("line", LINES)
def test_what_is_recorded_of_a_deletion_is_what_the_registry_then_holds(own, tmp_path, monkeypatch, line):
    impatient(monkeypatch)
    treat, words, gone = LINES[line]
    with FaultProxy(own.host) as front, Registry(front.host, tries=3) as door:
        snapshot = collect(door, progress=False, cache=None)
        tags = sorted(snapshot.tags["tag"])
        made = plan(snapshot, [f"{NAME}:{tag}" for tag in tags[:2]]).approve("Ada")
        known = {str(digest) for digest in snapshot.manifests["digest"]}
        front.requests.clear()
        front.rule = lambda seen, pass_on: (
            treat(seen, pass_on) if seen.method == "DELETE" and seen.path.rpartition("/")[2] in known else pass_on()
        )
        with Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
            run = cleaner.execute(made)
            assert {o.outcome for o in run.outcomes} <= words, run.counts()
            sent = [s.path for s in front.requests if s.method == "DELETE" and s.path.rpartition("/")[2] in known]
            assert len(sent) == len(set(sent)) == made.digests, "once each, whatever happened"
            left = {o.digest for o in run.outcomes if there(own, o.digest)}
            assert left == (set() if gone else {row.digest for row in made.rows})
            front.rule = None
            if gone:
                cleaner.undo(run)
            assert {row.digest for row in made.rows if there(own, row.digest)} == {row.digest for row in made.rows}


def there(server, digest):
    """Ask the registry itself, beside the proxy."""
    with Registry(server.host) as door:
        try:
            door.repository(NAME).head(digest)
        except RegistryError:
            return False
        return True


@pytest.mark.real
@pytest.mark.parametrize("driver", ["libcurl", "threads"])
def test_eight_cleaners_at_once_delete_each_digest_once(own, tmp_path, monkeypatch, driver):
    impatient(monkeypatch)
    with FaultProxy(own.host) as front:
        with Registry(front.host) as door:
            snapshot = collect(door, progress=False, cache=None)
        tags = sorted(snapshot.tags["tag"])
        made = plan(snapshot, [f"{NAME}:{tag}" for tag in tags], allow_empty=True).approve("Ada")
        accepted, lock = [], threading.Lock()

        def count(seen, pass_on):
            raw = pass_on()
            if seen.method == "DELETE" and b" 202 " in raw[:20]:
                with lock:
                    accepted.append(seen.path)
            return raw

        front.rule = count
        runs = []

        def work(number):
            with (
                Registry(front.host, driver=driver) as door,
                Cleaner(door, journal=tmp_path / f"{number}.sqlite") as cleaner,
            ):
                runs.append(cleaner.execute(made))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(runs) == 8
    assert sorted(accepted) == sorted(f"/v2/{NAME}/manifests/{row.digest}" for row in made.rows)
    counted = sum(run.counts().get("deleted", 0) + run.counts().get("deleted_unconfirmed", 0) for run in runs)
    assert sum(run.counts().get("deleted", 0) for run in runs) <= made.digests <= counted
    with Registry(own.host) as door:
        assert door.repository(NAME).tags() == []


def test_the_storm_has_the_share_that_it_says():
    weather = storm(seed=0)
    told = [weather(None, lambda: b"HTTP/1.1 200 OK\r\n\r\n") for _ in range(2000)]
    cut = [play for play in told if isinstance(play, Cut)]
    busy = [play for play in told if not isinstance(play, Cut) and b"TOOMANYREQUESTS" in play]
    assert (len(cut), len(busy)) == (40, 200)
