"""A process that applies a plan is killed at random moments, and the plan applied again until it is done, on a real docker-registry.

The moments are drawn, not named (`test_cleaner_resume` has those). After each kill the journal is whole, and whatever is gone from
the registry's disk is a row of the plan whose intent and bytes are in it. In the end the registry is what it is without a fault,
and undoing the newest run puts everything back.
"""

import time
from collections import Counter
from random import Random

import pytest
from conftest import cases
from killed import apply, undo, write_for_ever
from registries import made_up
from test_proof_bytes import given_out, gone_by, held, pushed, random_plan, tags_of

from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import SETTLED
from regaudit.cleaner.plan import Plan, plan
from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect
from regaudit.reference import Digest

pytestmark = [pytest.mark.real, pytest.mark.timeout(7200)]

SEEDS = range(cases(1, 110))
# Of one plan; then it is left to end. With fewer, most die before they have done much.
KILLS = cases(4, 8)
# A process that begins anew reads all tags before it deletes: the moment falls anywhere in what a whole run takes.
_SHARES = (0.2, 0.6, 1.0)
TALLY = Counter()


def killed(processes, moment, target, *arguments):
    """Begin something, kill its process so many seconds after, and return whether it had not ended before."""
    begun = processes.Event()
    process = processes.Process(target=target, args=(*arguments, begun))
    process.start()
    assert begun.wait(60)
    process.join(moment)
    process.kill()
    process.join()
    assert process.exitcode in {0, -9}
    return process.exitcode == -9


def on_disk(server):
    """Return every manifest as (repository, digest) that the registry has, by its files."""
    root = server.storage / "docker/registry/v2/repositories"
    # Past the tags: the registry may still be taking some away, for a request whose sender is dead.
    found = [file.relative_to(root).parts for file in root.glob("*/*/_manifests/revisions/*/*/link")]
    return {("/".join(parts[: parts.index("_manifests")]), f"{parts[-3]}:{parts[-2]}") for parts in found}


def check_record(path, approved, gone):
    """See that the journal is whole, and that of all that is gone the intent and the bytes are in it."""
    rows = {(row.repository, row.digest): row.key for row in approved.rows}
    with Journal(path) as journal:
        journal.verify()
        intents = {entry.key: entry.data for entry in journal.entries() if entry.event == "intent"}
        assert gone <= rows.keys()
        for place in gone:
            intent = intents[rows[place]]
            assert Digest(place[1]).matches(journal.manifest(place[1])[1])
            assert intent["repository"] == place[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_after_kills_at_random_moments_the_plan_is_carried_out_and_nothing_went_without_an_intent(
    docker_registry_program, processes, tmp_path, seed
):
    made, random = made_up(seed, repositories=2, images=4), Random(seed)
    with pushed(made, tmp_path) as (server, door):
        approved = large_plan(door, random).approve("Ada")
        expected, seconds = without_a_fault(server, made, approved, tmp_path / "calm.sqlite")
        assert on_disk(server) == made.manifests()
        journal, seen = tmp_path / "killed.sqlite", Counter()
        plan_file = approved.save(tmp_path / "plan.json")
        for _ in range(KILLS):
            moment = random.uniform(0, seconds * random.choice(_SHARES))
            if not killed(processes, moment, apply, server.host, plan_file, journal):
                break
            gone = made.manifests() - on_disk(server)
            check_record(journal, approved, gone)
            seen[where_it_died(journal, approved, gone)] += 1
        assert not killed(processes, 600, apply, server.host, plan_file, journal)
        assert given_out(server, made) == expected
        check_record(journal, approved, gone_by(approved))
        with Cleaner(door, journal=journal) as cleaner:
            last = cleaner.last_run(approved)
            assert {o.outcome for o in last.outcomes} <= SETTLED, last.frame()
            for _ in range(KILLS // 4):
                seen["undoing"] += killed(processes, random.uniform(0, seconds), undo, server.host, last.id, journal)
            assert cleaner.undo(last).ok
        assert given_out(server, made) == (tags_of(made), held(made))
    TALLY.update(seen, rows=len(approved.rows), plans=1)
    kills = TALLY.total() - TALLY["rows"] - TALLY["plans"]
    print(f"so far {kills} kills: {dict(sorted(TALLY.items()))}", flush=True)  # noqa: T201 -- for who asks with -s


def large_plan(door, random):
    """Draw a plan that it takes a while to carry out."""
    snapshot = collect(door, progress=False)
    return max((random_plan(snapshot, random) for _ in range(5)), key=lambda drawn: len(drawn.rows))


def without_a_fault(server, made, approved, journal):
    """Carry a plan out and undo it; return what the registry was then, and how many seconds it took."""
    with Registry(server.host) as door, Cleaner(door, journal=journal) as cleaner:
        begun = time.monotonic()
        run = cleaner.execute(approved)
        seconds = time.monotonic() - begun
        assert run.counts() == {"deleted": len(approved.rows)}
        after = given_out(server, made)
        assert cleaner.undo(run).ok
    assert given_out(server, made) == (tags_of(made), held(made))
    return after, seconds


def where_it_died(path, approved, gone):
    """Return in words how far the run had come that was killed last."""
    rows = {row.key: (row.repository, row.digest) for row in approved.rows}
    with Journal(path) as journal:
        entries = list(journal.entries())
    if not entries:
        return "before the record began"
    last = entries[-1]
    if last.event == "intent":
        return "intent recorded, " + ("deleted" if rows[last.key] in gone else "not deleted")
    return f"after {last.event}"


def test_a_plan_and_a_report_that_were_being_written_are_whole_whenever_the_writer_was_killed(
    processes, sample_registry, tmp_path
):
    random, folder = Random(0), tmp_path / "report"
    snapshot = collect(sample_registry, "shop/**", progress=False)
    plan_file = plan(snapshot, snapshot.tags.head(20)).approve("Ada").save(tmp_path / "plan.json")
    snapshot.save(tmp_path / "snapshot")
    for _ in range(cases(3, 30)):
        assert killed(processes, random.uniform(0, 0.5), write_for_ever, plan_file, tmp_path / "snapshot", folder)
        Plan.load(plan_file).check()
        whole = {".html": b"</html>\n", ".csv": b"\r\n", ".png": b"IEND\xaeB`\x82"}
        files = [file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(".tmp")]
        assert {file.suffix for file in files} >= whole.keys()
        assert all(file.read_bytes().endswith(whole.get(file.suffix, b"")) for file in files)
