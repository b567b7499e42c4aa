"""What nobody watches: a policy is carried out as it stands, what it does not cover waits, and every fault is said.

The policy is the example that has the rules of the node tag cleaner, and the second half of this file holds that cleaner's
faults. All goes through the command line; the sandbox's store is the ground truth.
"""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from docker_registry import push_repository
from images import Pushed

from regaudit.cleaner import execution, surroundings
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, PUT_INDEX
from regaudit.cleaner.unfinished import settle_cut_off
from regaudit.cli import main
from regaudit.client.registry import Registry
from regaudit.manifest import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox
from regaudit.unattended import cleaning, schedule

POLICY = Path(__file__).parent.parent / "examples" / "policies" / "tag-cleaner.toml"
APP, WEB = "team/app", "team/web"
KEPT = ("master", "latest", "young-1", "young-2")
OLD = ("old-1", "old-2", "old-3")
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Nobody waits half a minute here for a registry to show a deletion."""
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


class Place:
    """A sandbox to fill and to break, and a shell in a folder of its own."""

    def __init__(self, sandbox, folder):
        self.sandbox, self.store, self.folder = sandbox, sandbox.store, folder
        self.journal = folder / "journal.sqlite"

    def image(self, repository, *tags, days=0.0, created="", family=OCI_MANIFEST):
        """Put an image of an age in days in place, of which the tags and the age make the bytes, and return its digest."""
        moment = created or (datetime.now(UTC) - timedelta(days=days)).isoformat()
        config = json.dumps({"os": "linux", "architecture": "amd64", "created": moment, "of": [repository, *tags]})
        content = f"{repository} {tags} {days}".encode()
        blobs = [self.store.put_blob(repository, raw) for raw in (config.encode(), content)]
        fields = {
            "schemaVersion": 2,
            "mediaType": family,
            "config": {"mediaType": OCI_CONFIG, "digest": blobs[0], "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": blobs[1], "size": len(content)}],
        }
        return self._put(repository, family, fields, tags)

    def index(self, repository, *tags, children):
        entries = [
            {"mediaType": OCI_MANIFEST, "digest": child, "size": len(self.store.manifest(repository, child)[1])}
            for child in children
        ]
        fields = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": entries,
            "annotations": {"of": " ".join(tags)},
        }
        return self._put(repository, OCI_INDEX, fields, tags)

    def _put(self, repository, media_type, fields, tags):
        raw = json.dumps(fields).encode()
        digest = self.store.put_manifest(repository, str(Digest.of(raw)), media_type, raw)
        for tag in tags:
            self.store.set_tag(repository, tag, digest)
        return digest

    def usual(self, repository=APP):
        """Fill a repository with what stays and what goes."""
        self.image(repository, "master", days=400)
        self.image(repository, "latest", days=90)
        for tag in ("young-1", "young-2"):
            self.image(repository, tag, days=3)
        for tag in OLD:
            self.image(repository, tag, days=60)
        return self

    def tags(self, repository=APP):
        return set(self.store.tags(repository))

    def clean(self, *options, policy=POLICY):
        """Run `regaudit clean`, and return what it printed, with the report as `report`."""
        self.sandbox.requests.clear()
        line = ["clean", self.sandbox.host, "--policy", policy, "--report", self.folder / "reports"]
        result = self(*line, "--journal", self.journal, *options)
        latest = self.folder / "reports" / "latest.json"
        result.report = json.loads(latest.read_text()) if latest.exists() else None
        return result

    def __call__(self, *arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert "Traceback" not in result.output
        return result

    def writes(self):
        """Return what was asked to change, the probe for what cannot be there apart."""
        asked = [(m, path) for m, path, _ in self.sandbox.requests if m not in {"GET", "HEAD"}]
        with Journal(self.journal) as journal:
            probed = {e.data[name] for e in journal.entries() if e.event == "probed" for name in ("digest", "tag")}
        return [f"{method} {path}" for method, path in asked if path.rpartition("/")[2] not in probed]

    def policy(self, *changes):
        """Return the example with some texts replaced by others."""
        text = POLICY.read_text("utf-8")
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        path = self.folder / "policy.toml"
        path.write_text(text, "utf-8")
        return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Sandbox() as sandbox:
        yield Place(sandbox, tmp_path)


# -- the rules -------------------------------------------------------------------------------


def test_what_is_older_than_the_cutoff_goes_and_the_report_says_what_became_of_it(place):
    place.usual()
    done = place.clean()
    assert done.exit_code == 0, done.output
    assert place.tags() == {*KEPT}
    report = done.report
    assert (report["status"], report["exit_status"], report["reason"]) == ("done", 0, "")
    assert report["run"]["counts"] == {"deleted": 3}
    assert {tag for outcome in report["run"]["outcomes"] for tag in outcome["tags"]} == {*OLD}
    assert report["freed_bytes"] == report["plan"]["reclaimable_bytes"] > 0
    assert report["verification"] == {"missing": [], "still_there": [], "broken": [], "unread": []}
    assert report["duration_seconds"] > 0
    assert "3 deleted" in done.output
    assert sorted(path.suffix for path in (place.folder / "reports").iterdir()) == [".json"] * 3


def test_the_protected_names_and_their_aliases_stay(place):
    for tag in ("develop", "master", "release", "latest"):
        place.image(APP, tag, days=900)
    place.usual(WEB)
    place.image(APP, "old", days=60)
    place.store.set_tag(APP, "v1", place.store.tags(APP)["master"])
    done = place.clean()
    assert done.exit_code == 0
    assert place.tags() == {"develop", "master", "release", "latest", "v1"}
    held = {row["tag"]: row["held_by"] for row in done.report["held"]["rows"]}
    assert held == {"v1": "alias"}


@pytest.mark.parametrize(("count", "goes"), [(5, False), (6, True)])
def test_a_repository_of_five_tags_is_left_alone_and_one_of_six_is_not(place, count, goes):
    place.image(APP, "latest", days=900)
    for number in range(count - 1):
        place.image(APP, f"old-{number}", days=60)
    assert place.clean().exit_code == 0
    assert (len(place.tags()) == 1) is goes


def test_never_all_of_a_repository_goes(place):
    for number in range(8):
        place.image(APP, f"old-{number}", days=60)
    done = place.clean()
    assert (done.exit_code, len(place.tags()), place.writes()) == (0, 8, [])
    assert done.report["held"]["by"] == {"minimum_left": 8}


@pytest.mark.parametrize(("days", "goes"), [(29.9, False), (30.1, True)])
def test_the_cutoff_is_measured_to_the_day(place, days, goes):
    place.usual()
    place.image(APP, "at-the-edge", days=days)
    place.clean()
    assert ("at-the-edge" not in place.tags()) is goes


def test_other_settings_are_other_numbers_in_the_policy(place):
    place.usual()
    changed = place.policy(
        ('"30D"', '"365D"'), ('"latest"]', '"latest", "old-*"]'), ("minimum_tags = 6", "minimum_tags = 2")
    )
    assert place.clean(policy=changed).report["status"] == "nothing_to_do"


# -- which repositories ----------------------------------------------------------------------


def test_a_list_of_repositories_survives_what_other_systems_write(place):
    place.usual().usual(WEB)
    place.usual("other/app")
    raw = b"\xef\xbb\xbf# ours\r\n\r\n  team/app  \r\nteam/w*   # a pattern\r\n\t\r\nteam/app\r\n"
    (place.folder / "list.txt").write_bytes(raw)
    done = place.clean("--repositories", "list.txt")
    assert done.exit_code == 0, done.output
    assert place.tags() == place.tags(WEB) == {*KEPT}
    assert place.tags("other/app") == {*KEPT, *OLD}
    assert done.report["snapshot"]["repositories"] == 2


def test_a_repository_that_does_not_exist_is_said_and_the_others_are_cleaned(place):
    place.usual()
    (place.folder / "list.txt").write_text("team/app\nteam/ap\nweb/*\n")
    done = place.clean("--repositories", "list.txt")
    assert (done.exit_code, done.report["status"]) == (1, "incomplete")
    assert done.report["unmatched"] == ["team/ap", "web/*"]
    assert "team/ap" in done.stderr
    assert place.tags() == {*KEPT}


@pytest.mark.parametrize(
    ("raw", "says"), [(b"\r\n#\r\n", "names no repository"), (b"a\nB b\n", "line 2"), (b"\xff", "UTF-8")]
)
def test_a_list_that_cannot_be_meant_is_a_usage_error(place, raw, says):
    (place.folder / "list.txt").write_bytes(raw)
    done = place.clean("--repositories", "list.txt")
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.report["status"] == "usage"


# -- approval --------------------------------------------------------------------------------


def without_approval(place):
    text = POLICY.read_text("utf-8")
    (place.folder / "policy.toml").write_text(text[: text.index("[approval]")], "utf-8")
    return place.folder / "policy.toml"


def test_without_a_standing_approval_the_plan_is_written_and_waits_for_somebody(place):
    place.usual()
    done = place.clean(policy=without_approval(place))
    assert (done.exit_code, done.report["status"]) == (1, "needs_approval")
    assert place.tags() == {*KEPT, *OLD}
    assert place.writes() == []
    typed = done.stderr.rpartition("then: ")[2].replace("NAME", "Grace").split("&&")
    for command in typed:
        assert place(*command.split()[1:]).exit_code == 0
    assert place.tags() == {*KEPT}


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("maximum_deletions = 2", "3 deletions"),
        ("maximum_deletions = 9\nmaximum_percent = 42", "3 of 7"),
        ("maximum_deletions = 9\nmaximum_deletions_per_repository = 2", "team/app"),
        ("maximum_deletions = 9\nmaximum_percent_per_repository = 42", "team/app"),
        ("maximum_deletions = 9\nuntil = 2020-01-01", "2020-01-01"),
    ],
)
def test_a_standing_approval_covers_a_plan_within_all_its_limits_or_nothing_of_it(place, limit, says):
    place.usual()
    done = place.clean(policy=place.policy(("maximum_deletions = 500", limit)))
    assert (done.exit_code, done.report["status"]) == (1, "needs_approval")
    assert says in done.stderr
    assert place.writes() == []


def test_a_plan_at_the_limits_is_covered(place):
    place.usual()
    limits = f"maximum_deletions = 3\nmaximum_percent = 43\nmaximum_percent_per_repository = 43\nuntil = {datetime.now(UTC):%Y-%m-%d}"
    assert place.clean(policy=place.policy(("maximum_deletions = 500", limits))).exit_code == 0


def test_what_goes_along_counts_too(place):
    place.usual()
    children = [place.image(APP, days=60 + number) for number in range(2)]
    place.index(APP, "old-index", children=children)
    policy = place.policy(("maximum_deletions = 500", "maximum_deletions = 5"))
    assert "6 deletions" in place.clean(policy=policy).stderr


def test_the_record_names_the_standing_approval_and_the_policy(place):
    place.usual()
    done = place.clean()
    shown = place("journal", "show", "--journal", place.journal).output
    assert "approved in advance by Ada Lovelace (agreed with the teams" in shown
    with Journal(place.journal) as journal:
        (started,) = journal.runs()
        assert journal.verify() > 3
    assert started.data["approval"]["policy_hash"] == done.report["policy"]["hash"]
    assert done.report["policy"]["hash"][:12] in shown
    exported = place("journal", "export", "--journal", place.journal, "--format", "csv").output
    assert done.report["policy"]["hash"] in exported


def test_the_hash_of_a_policy_is_that_of_its_rules_and_not_of_what_is_in_use(place):
    first = place.clean("--dry-run").report["policy"]["hash"]
    used = place.policy(("version = 1", 'version = 1\nin_use = ["mongo:7"]'))
    assert place.clean("--dry-run", policy=used).report["policy"]["hash"] == first
    other = place.policy(("maximum_deletions = 500", "maximum_deletions = 501"))
    assert place.clean("--dry-run", policy=other).report["policy"]["hash"] != first


def test_strict_notices_what_a_limit_holds_back(place):
    place.usual()
    policy = place.policy(("minimum_left = 1", "minimum_left = 1\nmaximum_percent = 20"))
    quiet = place.clean(policy=policy)
    assert (quiet.exit_code, quiet.report["held"]["by"]) == (0, {"maximum_percent": 3})
    assert "maximum_percent = 20" in quiet.output
    strict = place.clean("--strict", policy=policy)
    assert (strict.exit_code, strict.report["status"]) == (1, "held_back")
    assert "3 are held back by a limit" in strict.stderr
    assert place.clean("--strict").exit_code == 0


# -- a dry run -------------------------------------------------------------------------------


def test_a_dry_run_sends_nothing_but_reads_and_lists_exactly_what_a_run_then_sends(place):
    place.usual()
    child = place.image(APP, days=70)
    place.index(APP, "old-index", children=[child])
    dry = place.clean("--dry-run")
    assert dry.exit_code == 0, dry.output
    assert {method for method, _, _ in place.sandbox.requests} <= {"GET", "HEAD"}
    assert not place.journal.exists()
    sends = dry.report["sends"]
    assert len(sends) == 5
    assert all(line in dry.output for line in sends)
    assert place.clean().exit_code == 0
    assert place.writes() == sends


def test_a_dry_run_says_that_a_run_would_wait_for_approval(place):
    place.usual()
    done = place.clean("--dry-run", policy=place.policy(("maximum_deletions = 500", "maximum_deletions = 1")))
    assert done.exit_code == 0
    assert "would wait for somebody's approval" in done.output


def test_a_dry_run_without_a_folder_leaves_no_file(place, monkeypatch):
    place.usual()
    before = set(place.folder.rglob("*"))
    assert place("clean", place.sandbox.host, "--policy", POLICY, "--dry-run", "--no-cache").exit_code == 0
    assert set(place.folder.rglob("*")) == before


# -- one at a time, to the end, or not -------------------------------------------------------


def test_a_second_run_ends_with_a_status_of_its_own_and_sends_nothing(place):
    place.usual()
    with Journal(place.journal) as journal, journal.locked():
        done = place.clean()
    assert (done.exit_code, done.report["status"]) == (75, "busy")
    assert "in use by another run" in done.stderr
    assert list(place.sandbox.requests) == []


def test_a_signal_lets_the_deletion_that_is_under_way_come_to_its_end_and_no_other_begin(place, monkeypatch):
    place.usual()
    monkeypatch.setattr("regaudit.cli.unattended.print_outcome", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    done = place.clean()
    assert signal.getsignal(signal.SIGTERM) is before
    assert (done.exit_code, done.report["status"]) == (1, "stopped")
    assert done.report["run"]["counts"] == {"deleted": 1}
    assert len(place.tags()) == 6
    monkeypatch.undo()
    assert place.clean().report["run"]["counts"] == {"deleted": 2}


def test_a_signal_in_the_middle_of_a_deletion_waits_for_its_end_and_its_record(place, monkeypatch):
    place.usual()
    delete = place.store.delete_manifest

    def slow(repository, reference):
        if reference in place.store.digests(APP):  # and not the probe's, which cannot be there
            os.kill(os.getpid(), signal.SIGTERM)
        return delete(repository, reference)

    monkeypatch.setattr(place.store, "delete_manifest", slow)
    done = place.clean()
    assert (done.exit_code, done.report["status"]) == (1, "stopped")
    assert done.report["run"]["counts"] == {"deleted": 1}
    assert done.report["run"]["stopped"]
    assert len(place.tags()) == 6


def test_a_second_signal_does_not_wait_and_what_was_under_way_is_recorded_as_unknown(place, monkeypatch):
    place.usual()
    fault = place.sandbox.faults.add(method="DELETE", path=f"/v2/{APP}/manifests/*", skip=2, delay=60)
    take = place.sandbox.faults.take

    def twice(*request):
        found = take(*request)
        if found is fault:
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
        return found

    monkeypatch.setattr(place.sandbox.faults, "take", twice)
    done = place.clean()
    assert (done.exit_code, done.report["status"]) == (1, "stopped")
    assert done.report["run"]["counts"] == {"unknown": 1}


def test_a_signal_while_the_registry_is_read_ends_the_run_before_anything_goes(place, monkeypatch):
    place.usual()
    read = cleaning.collect

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return read(*arguments, **options)

    monkeypatch.setattr(cleaning, "collect", interrupted)
    done = place.clean()
    assert (done.exit_code, done.report["status"], place.writes()) == (1, "stopped", [])


class Killed(BaseException):
    """As little comes after it in the program as after kill -9."""


def kill(place, monkeypatch, module, name, policy=POLICY):
    """Run, and end the run where it calls a function for the first time."""

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(Killed):
            place.clean(policy=policy)


def cut_off_outcomes(place):
    with Journal(place.journal) as journal:
        first = journal.runs()[0].run
        return [entry.data["outcome"] for entry in journal.entries(first) if entry.event == "outcome"]


# The last thing before a request leaves, and the first after its answer was understood.
MOMENTS = [
    ((surroundings.Surroundings, "last_look"), "not_deleted"),
    ((execution, "record_outcome"), "deleted_unconfirmed"),
]


@pytest.mark.parametrize(("where", "outcome"), MOMENTS)
def test_what_became_of_the_last_request_of_a_killed_run_is_seen_and_the_rest_decided_anew(
    place, monkeypatch, where, outcome
):
    place.usual()
    kill(place, monkeypatch, *where)
    done = place.clean()
    assert done.exit_code == 0, done.output
    assert cut_off_outcomes(place) == [outcome]
    assert place.tags() == {*KEPT}
    assert place.clean().report["cut_off"] == []


@pytest.mark.parametrize(("where", "outcome"), MOMENTS)
def test_of_a_tag_that_goes_alone_it_is_seen_too(place, monkeypatch, where, outcome):
    place.image(APP, "latest", days=90)
    place.store.set_tag(APP, "v1", place.store.tags(APP)["latest"])
    for number in range(4):
        place.image(APP, f"young-{number}", days=3)
    policy = place.policy(("version = 1", "version = 1\nuntag = true"))
    kill(place, monkeypatch, *where, policy=policy)
    done = place.clean(policy=policy)
    assert done.exit_code == 0, done.output
    assert cut_off_outcomes(place) == [outcome]
    assert place.tags() == {"latest", *(f"young-{number}" for number in range(4))}


@pytest.mark.parametrize(("written", "outcome"), [(True, "rewritten"), (False, "not_rewritten")])
def test_of_a_list_that_was_being_written_the_digest_tells(place, written, outcome):
    digest = place.image(APP, "sha256-0000", days=3)
    row = {"repository": APP, "tags": ["sha256-0000"], "action": PUT_INDEX}
    raw = place.store.manifest(APP, digest)[1]
    with Journal(place.journal) as journal, Registry(place.sandbox.host) as registry:
        journal.record("cut", "started", kind="delete", rows=[], registry=place.sandbox.host)
        known = {"digest": digest, "media_type": OCI_INDEX, "raw": raw}
        journal.record_intent("cut", "key", **known, **row, written=digest if written else "sha256:other")
        (found,) = settle_cut_off(registry, journal)
        assert [seen.outcome for seen in found.settled] == [outcome]
        assert settle_cut_off(registry, journal) == ()


def test_of_a_run_that_was_cut_off_only_what_is_open_is_looked_at_and_a_404_of_who_knows_nothing_tells_nothing(place):
    digests = [place.image(APP, f"v{number}", days=3) for number in range(4)]
    with Journal(place.journal) as journal, Registry(place.sandbox.host) as registry:
        journal.record("cut", "started", kind="delete", rows=[], registry=place.sandbox.host)
        for number, digest in enumerate(digests):
            row = {"repository": APP, "digest": digest, "tags": [f"v{number}"]}
            row["action"] = DELETE_TAG if number == 3 else DELETE_MANIFEST
            media_type, raw = place.store.manifest(APP, digest)
            journal.record_intent("cut", f"row {number}", **row, media_type=media_type, raw=raw)
            if number == 0:
                journal.record("cut", "outcome", "row 0", **row, outcome="denied")
        place.store.set_tag(APP, "v3", digests[0])  # what it was is not asked for, and it is not gone either
        path = f"/v2/{APP}/manifests/{digests[2]}"
        fault = place.sandbox.faults.add(method="GET", path=path, status=404, code="NAME_UNKNOWN")
        (first,) = settle_cut_off(registry, journal)
        assert [(seen.key, seen.outcome) for seen in first.settled] == [("row 1", "not_deleted"), ("row 3", "unknown")]
        looked = "of its rows were looked at and recorded"
        assert str(first) == f"run cut was cut off; 2 {looked}, and 1 could not be looked at"
        assert journal.last("cut", "", "finished") is None
        place.sandbox.faults.remove(fault)
        (second,) = settle_cut_off(registry, journal)
        assert [(seen.key, seen.outcome) for seen in second.settled] == [("row 2", "not_deleted")]
        assert second.settled[0].detail == "the run was cut off; this is what was seen later"
        assert str(second) == f"run cut was cut off; 1 {looked}. It can be undone: regaudit undo cut"
        assert journal.last("cut", "", "finished").data == {"stopped": True, "cut_off": True}


def test_what_cannot_be_looked_at_stays_open_until_it_can(place, monkeypatch):
    place.usual()
    kill(place, monkeypatch, execution, "record_outcome")
    fault = place.sandbox.faults.add(method="GET", path=f"/v2/{APP}/manifests/sha256:*", status=403)
    assert "1 could not be looked at" in place.clean().report["cut_off"][0]
    place.sandbox.faults.remove(fault)
    assert "1 of its rows were looked at and recorded" in place.clean().report["cut_off"][0]
    assert place.clean().report["cut_off"] == []


def test_an_undo_that_was_cut_off_is_told_of_until_it_was_typed_again(place):
    place.usual()
    run = place.clean().report["run"]["id"]
    with Journal(place.journal) as journal:
        for name, undoes in (("cut", run), ("other", "another run")):
            journal.record(name, "started", kind="undo", undoes=undoes, registry=place.sandbox.host, only=[])
    told = [f"run {name} (undo) was cut off: type the same command again to go on with it" for name in ("cut", "other")]
    for _ in range(2):
        assert place.clean("--policy", without_approval(place)).report["cut_off"] == told
    assert place("undo", run, "--journal", place.journal).exit_code == 0
    assert place.clean("--policy", without_approval(place)).report["cut_off"] == told[1:]


def test_a_run_that_was_killed_is_told_of_and_its_open_question_answered(place, monkeypatch):
    place.usual()

    kill(place, monkeypatch, execution, "record_outcome")
    assert len(place.tags()) == 6
    done = place.clean()
    assert done.exit_code == 0, done.output
    (said,) = done.report["cut_off"]
    assert "was cut off; 1 of its rows" in said
    cut_off = said.split()[1]
    assert place.tags() == {*KEPT}
    assert place.clean().report["cut_off"] == []
    for run in (done.report["run"]["id"], cut_off):
        undone = place("undo", run, "--journal", place.journal)
        assert undone.exit_code == 0, undone.output
    assert place.tags() == {*KEPT, *OLD}


# -- by a schedule ---------------------------------------------------------------------------


def at_once(monkeypatch, times):
    """Let the times of a schedule come at once, so many of them, and then a person press Ctrl-C."""
    due = []

    def wait(moment):
        due.append(moment)
        if len(due) > times:
            raise KeyboardInterrupt

    monkeypatch.setattr(schedule, "wait_until", wait)
    return due


def test_a_schedule_survives_a_run_that_fails(place, monkeypatch):
    place.usual()
    place.sandbox.faults.add(path="/v2/", status=401, times=1)
    due = at_once(monkeypatch, 2)
    done = place.clean("--cron", "0 3 * * 7", "--timezone", "UTC", "--metrics", "figures.prom")
    assert done.exit_code == 0, done.output
    assert place.tags() == {*KEPT}
    reports = [json.loads(path.read_text()) for path in (place.folder / "reports").glob("clean-*.json")]
    assert sorted(report["status"] for report in reports) == ["done", "failed"]
    assert [moment.isoweekday() for moment in due] == [7, 7, 7]
    assert len(set(due)) == 3
    assert "regaudit: failed: " in done.stderr
    assert done.stderr.endswith("ended\n")


def test_a_policy_that_was_spoilt_meanwhile_fails_its_run_and_not_the_schedule(place, monkeypatch):
    place.usual()
    policy = place.policy()
    due = at_once(monkeypatch, 2)
    spoil = cleaning.Policy.load

    def load(path):
        made = spoil(path)
        policy.write_text("version = 3" if len(due) == 0 else POLICY.read_text("utf-8"))
        return made

    monkeypatch.setattr(cleaning.Policy, "load", load)
    done = place.clean("--cron", "@daily", policy=policy)
    assert done.exit_code == 0
    assert "usage" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cron", "0 3 * *"], "is not a schedule"),
        (["--cron", "0 3 * * 8"], "is not a schedule"),
        (["--cron", "0 0 30 2 *"], "is not a schedule"),
        (["--cron", "@daily", "--timezone", "Mars/Base"], "time zone"),
        (["--timezone", "UTC"], "--cron"),
        (["--policy", "nosuch.toml"], "cannot be read"),
        (["--cron", "@daily", "--policy", "nosuch.toml"], "cannot be read"),
        (["--cron", "@daily", "--repositories", "nosuch.txt"], "cannot be read"),
        (["--cache", "x", "--no-cache"], "contradict"),
    ],
)
def test_what_is_typed_wrong_is_said_at_once(place, options, says):
    done = place.clean(*options)
    assert done.exit_code == 2
    assert says in done.stderr
    assert list(place.sandbox.requests) == []


def test_sigterm_ends_a_schedule_that_waits_at_once_and_with_0(tmp_path):
    line = [
        sys.executable,
        "-m",
        "regaudit.cli",
        "clean",
        "127.0.0.1:1",
        "--policy",
        str(POLICY),
        "--cron",
        "0 0 29 2 *",
    ]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as waiting:
        assert "the next run is at" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGTERM)
        try:
            assert waiting.wait(20) == 0
            assert waiting.stderr.read() == "ended\n"
        finally:
            waiting.kill()  # or leaving the block would wait for it


# -- monitoring ------------------------------------------------------------------------------


def figures(place):
    lines = (place.folder / "figures.prom").read_text().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.partition("{")[0].removeprefix("regaudit_clean_"): float(value) for name, value in pairs}


def test_figures_for_monitoring_keep_when_it_last_went_well(place):
    place.usual()
    place.clean("--metrics", "figures.prom")
    good = figures(place)
    assert (good["exit_status"], good["deleted"], good["not_deleted"]) == (0, 3, 0)
    assert good["last_success_timestamp_seconds"] == good["last_run_timestamp_seconds"]
    place.sandbox.faults.add(path="/v2/team/app/tags/list", status=401)
    place.clean("--metrics", "figures.prom")
    bad = figures(place)
    assert (bad["exit_status"], bad["unread_repositories"]) == (1, 1)
    assert bad["last_success_timestamp_seconds"] == good["last_success_timestamp_seconds"]


def test_a_report_that_cannot_be_written_is_a_failure(place):
    place.usual()
    (place.folder / "reports").write_text("in the way")
    done = place.clean()
    assert done.exit_code == 2
    assert "is a file" in done.stderr
    assert place.writes() == []


# -- the faults of the cleaner that this one replaces ----------------------------------------


@pytest.mark.parametrize("status", [500, 429, 503, 403])
def test_a_fault_while_master_is_read_deletes_nothing_there_and_ends_with_1(place, status):
    place.usual().usual(WEB)
    place.sandbox.faults.add(path="/v2/team/app/manifests/master", status=status, retry_after=3600)
    done = place.clean()
    assert (done.exit_code, done.report["status"]) == (1, "incomplete")
    assert place.tags() == {*KEPT, *OLD}
    assert place.tags(WEB) == {*KEPT}
    assert done.report["snapshot"]["unread"] == [APP]
    (problem,) = done.report["problems"]
    assert (problem["identifier"], problem["status"]) == ("master", status)


def test_multi_arch_tags_stay_whole_or_go_whole_and_nothing_is_asked_for_by_no_name(place):
    place.usual()
    shared, only = place.image(APP, days=100), place.image(APP, days=101)
    place.index(APP, "old-index", children=[shared, only])
    kept = place.index(APP, "release", children=[shared])
    done = place.clean()
    assert done.exit_code == 0, done.output
    assert place.tags() == {*KEPT, "release"}
    assert {kept, shared} <= set(place.store.digests(APP))
    assert only not in place.store.digests(APP)
    assert not [path for path in place.writes() if not path.rpartition("/")[2].startswith("sha256:")]


@pytest.mark.parametrize("created", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1980-01-01T00:00:01Z"])
def test_a_build_that_calls_itself_older_than_registries_are_stays(place, created):
    place.usual()
    place.image(APP, "reproducible", created=created)
    assert place.clean().exit_code == 0
    assert place.tags() == {*KEPT, "reproducible"}


def test_a_repository_without_tags_does_not_end_the_run_of_the_others(place):
    gone = place.image("a/emptied", "x", days=60)
    place.store.delete_manifest("a/emptied", gone)
    place.usual()
    assert place.clean().exit_code == 0
    assert ("GET", "/v2/a/emptied/tags/list", 200) in place.sandbox.requests
    assert place.tags() == {*KEPT}


@pytest.mark.parametrize("family", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_images_of_every_kind_are_cleaned(place, family):
    place.usual()
    place.image(APP, "of-a-family", days=60, family=family)
    place.clean()
    assert place.tags() == {*KEPT}


@pytest.mark.parametrize(
    ("status", "outcome", "sent"),
    [(500, "not_deleted", 3), (403, "denied", 1), (405, "disabled", 0), (409, "refused_by_registry", 3)],
)
def test_a_deletion_that_fails_is_told_and_ends_with_1(place, status, outcome, sent):
    place.usual()
    place.sandbox.faults.add(
        method="DELETE", path=f"/v2/{APP}/manifests/*", status=status, skip=0 if status == 405 else 2
    )
    done = place.clean()
    assert (done.exit_code, done.report["status"]) == (1, "not_deleted")
    assert set(done.report["run"]["counts"]) == {outcome}
    assert len(place.writes()) == sent
    assert place.tags() == {*KEPT, *OLD}
    assert outcome in done.output


def test_a_login_that_is_refused_is_not_called_not_found(place):
    place.usual()
    place.sandbox.faults.add(path=f"/v2/{APP}/tags/list", status=401)
    (place.folder / "list.txt").write_text(f"{APP}\n")
    done = place.clean("--repositories", "list.txt")
    assert done.exit_code == 1
    assert done.report["unmatched"] == []
    assert [problem["error"] for problem in done.report["problems"]] == ["denied"]
    assert "not found" not in done.output


def test_a_tag_that_is_pushed_again_between_the_decision_and_the_deletion_keeps_its_new_content(place, monkeypatch):
    place.usual()
    execute = cleaning.Cleaner.execute
    pushed = []

    def late(cleaner, approved, **options):
        pushed.append(place.image(APP, "old-2", days=0))
        return execute(cleaner, approved, **options)

    monkeypatch.setattr(cleaning.Cleaner, "execute", late)
    done = place.clean()
    assert place.store.tags(APP)["old-2"] == pushed[0]
    assert place.tags() == {*KEPT, "old-2"}
    assert done.report["run"]["counts"] == {"deleted": 2, "skipped": 1}
    assert done.exit_code == 0


def test_there_is_a_record_and_a_way_back(place):
    place.usual()
    before = dict(place.store.tags(APP))
    done = place.clean()
    run = done.report["run"]["id"]
    assert f"delete {run}" in done.output
    assert place("journal", "verify", "--journal", place.journal).exit_code == 0
    assert place("undo", run, "--journal", place.journal).exit_code == 0
    assert place.store.tags(APP) == before


def test_with_a_backup_the_way_back_is_there_after_garbage_collection_too(place):
    place.usual()
    before = dict(place.store.tags(APP))
    assert place.clean("--backup", "kept").exit_code == 0
    place.store.collect_garbage()
    assert place("restore", "kept", place.sandbox.host, "--journal", place.journal).exit_code == 0
    assert place.store.tags(APP) == before


@pytest.mark.real
def test_a_real_registry_is_cleaned_verified_and_put_back(docker_registry, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("legacy/billing", "platform/base/node", "charts/checkout")  # undated, multi-arch, few tags
    with Registry(docker_registry.host) as door:
        for name in names:
            push_repository(door, sample.repository(name))
        emptied = Pushed(door, "a/emptied")
        emptied.repository.delete_manifest(emptied.image("gone", "x"))
        before = {name: Pushed(door, name).tags() for name in names}

        def shell(*arguments):
            return CliRunner().invoke(main, [str(argument) for argument in arguments])

        done = shell("clean", docker_registry.host, "--policy", POLICY, "--report", "reports")
        report = json.loads((tmp_path / "reports" / "latest.json").read_text())
        assert (done.exit_code, report["status"]) == (0, "done"), done.output
        after = {name: Pushed(door, name).tags() for name in names}
        gone = {(o["repository"], tag) for o in report["run"]["outcomes"] for tag in o["tags"]}
        assert {(name, tag) for name in names for tag in before[name].keys() - after[name].keys()} == gone != set()
        assert after["charts/checkout"] == before["charts/checkout"]
        assert {"latest", "0.2-import", "0.3-import", "0.8.0-buildpack"} <= after["legacy/billing"].keys()
        again = shell("clean", docker_registry.host, "--policy", POLICY, "--report", "reports")
        assert "nothing to do" in again.output
        assert shell("undo", report["run"]["id"]).exit_code == 0
        assert {name: Pushed(door, name).tags() for name in names} == before
