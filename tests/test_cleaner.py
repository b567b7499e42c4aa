"""The cleaner deletes exactly what was approved and is still so, records the truth about it, and puts it back.

Most tests speak to the sandbox, whose store is the ground truth. `Front` stands before it where the
answer to a DELETE has to lie, be lost or come late.
"""

import itertools
import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hostile import Cut, Hostile, error, redirect, reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy import passed_on

from regaudit.cleaner import execution, surroundings
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.garbage import ENABLE_DELETION
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import GONE
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.errors import JournalError, PlanError, Refused, UsageError
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from regaudit.reference import Digest, attached_tag
from regaudit.sandbox.login import Login
from regaudit.sandbox.server import Sandbox

APP, WEB = "team/app", "team/web"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Nobody waits half a minute here for a registry to show a deletion."""
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)
    monkeypatch.setattr(execution, "_LOOK_EVERY", (0.01,))


# -- what a registry holds -------------------------------------------------------------------


def dump(document):
    return json.dumps(document).encode()


def descriptor(store, repository, digest):
    media_type, raw = store.manifest(repository, digest)
    return {"mediaType": media_type, "digest": digest, "size": len(raw)}


def image(store, repository, name, *tags, subject=None, config_type=OCI_CONFIG):
    """Put an image of its own blobs, or an artifact about `subject`, in place and return its digest."""
    blobs = [dump({"os": "linux", "architecture": "amd64", "name": name}), name.encode()]
    config, layer = (store.put_blob(repository, raw) for raw in blobs)
    fields = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config_type, "digest": config, "size": len(blobs[0])},
        "layers": [{"mediaType": LAYER, "digest": layer, "size": len(blobs[1])}],
    }
    if subject is not None:
        fields["subject"] = descriptor(store, repository, subject)
    return put(store, repository, OCI_MANIFEST, dump(fields), tags)


def index(store, repository, children, *tags, name=""):
    entries = [descriptor(store, repository, child) for child in children]
    fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": {"name": name}}
    return put(store, repository, OCI_INDEX, dump(fields), tags)


def put(store, repository, media_type, raw, tags):
    digest = store.put_manifest(repository, str(Digest.of(raw)), media_type, raw)
    for tag in tags:
        store.set_tag(repository, tag, digest)
    return digest


def content(store):
    """Everything that a client can read, byte for byte."""
    return {
        repository: (store.tags(repository), {d: store.manifest(repository, d) for d in store.digests(repository)})
        for repository in store.repositories()
    }


class Shop:
    """A sandbox with a small repository, a door to it, and a cleaner."""

    def __init__(self, sandbox, folder, registry=None):
        self.sandbox, self.store = sandbox, sandbox.store
        self.registry = registry or Registry(sandbox.host)
        self.journal = Journal(folder / "journal.sqlite")
        self.cleaner = Cleaner(self.registry, journal=self.journal)
        self.keep = image(self.store, APP, "keep", "keep")

    def plan(self, *tags, **options):
        snapshot = collect(self.registry, progress=False)
        return plan(snapshot, [t if ":" in t else f"{APP}:{t}" for t in tags], **options).approve("Ada")

    def execute(self, made, **options):
        self.sandbox.requests.clear()
        return self.cleaner.execute(made, **options)

    def deletes(self):
        """Return what was asked to go, the probe apart."""
        probed = {e.data[name] for e in self.journal.entries() if e.event == "probed" for name in ("digest", "tag")}
        asked = [path for method, path, _ in self.sandbox.requests if method == "DELETE"]
        return [path for path in asked if path.rpartition("/")[2] not in probed]

    def close(self):
        self.journal.close()
        self.registry.close()


@contextmanager
def opened(folder, **options):
    with Sandbox(**options) as sandbox:
        shop = Shop(sandbox, folder)
        yield shop
        shop.close()


@pytest.fixture
def shop(tmp_path):
    with opened(tmp_path) as shop:
        yield shop


def words(run):
    return {(" ".join(o.tags) or o.digest): o.outcome for o in run.outcomes}


def only(run):
    (outcome,) = run.outcomes
    return outcome.outcome


def family(shop, tag="old"):
    """Put an index with two children, an SBOM by subject and a cosign signature in place: all of it goes with the tags."""
    children = [image(shop.store, APP, f"{tag}-{machine}") for machine in ("amd64", "arm64")]
    top = index(shop.store, APP, children, tag, f"{tag}-alias", name=tag)
    sbom = image(shop.store, APP, f"{tag}-sbom", subject=top, config_type=OCI_EMPTY)
    signature = image(shop.store, APP, f"{tag}-sig", f"{attached_tag(Digest(top))}.sig")
    return [top, *children, sbom, signature]


# -- deleting --------------------------------------------------------------------------------


def test_exactly_the_plan_is_deleted_and_everything_else_is_as_it_was(shop):
    going = family(shop)
    family(shop, "new")
    before = content(shop.store)
    made = shop.plan("old", "old-alias")
    run = shop.execute(made)
    assert {row.digest for row in made.rows} == set(going)
    assert run.ok
    assert set(run.counts()) == {"deleted"}
    tags, manifests = before[APP]
    expected = {tag: digest for tag, digest in tags.items() if digest not in going}
    assert content(shop.store) == {APP: (expected, {d: m for d, m in manifests.items() if d not in going})}


def test_what_the_plan_lists_is_what_is_sent_parents_first(shop):
    family(shop)
    made = shop.plan("old", "old-alias")
    shop.execute(made)
    assert shop.deletes() == [f"/v2/{APP}/manifests/{row.digest}" for row in made.rows]


def test_the_same_digest_in_another_repository_is_not_touched(shop):
    image(shop.store, APP, "old", "old")
    twin = image(shop.store, WEB, "old", "old")
    shop.execute(shop.plan("old"))
    assert shop.store.digests(WEB) == [twin]
    assert shop.store.digests(APP) == [shop.keep]


def test_a_plan_that_is_not_approved_changed_or_for_elsewhere_sends_nothing(shop):
    image(shop.store, APP, "old", "old")
    image(shop.store, APP, "x", "x")
    made = shop.plan("old", "x")
    for bad in (
        replace(made, approval=None),
        replace(made, rows=made.rows[:1]),
        replace(made, registry="elsewhere:5000").approve("Ada"),
    ):
        with pytest.raises(PlanError):
            shop.execute(bad)
        assert not shop.sandbox.requests
    assert shop.journal.runs() == []


def test_a_plan_whose_reading_is_older_than_asked_for_sends_nothing_and_a_younger_one_goes(shop):
    image(shop.store, APP, "old", "old")
    image(shop.store, APP, "x", "x")
    made = shop.plan("old")
    aged = replace(made, taken_at=(datetime.now(UTC) - timedelta(hours=13)).isoformat()).approve("Ada")
    with pytest.raises(PlanError, match="more than 12h ago: audit it again"):
        shop.execute(aged, max_age="12h")
    with pytest.raises(UsageError, match="duration"):
        shop.execute(made, max_age="soon")
    assert not shop.sandbox.requests
    assert shop.execute(made, max_age="12h").ok


def test_nothing_is_sent_where_the_journal_is_held_by_another_run(shop):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    with shop.journal.locked(), pytest.raises(JournalError):
        shop.execute(made)
    assert not shop.sandbox.requests


def test_nothing_is_deleted_where_the_intent_cannot_be_recorded(shop, monkeypatch):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")

    def full(*_, **__):
        raise JournalError("no space left on device")

    monkeypatch.setattr(shop.journal, "record_intent", full)
    with pytest.raises(JournalError):
        shop.execute(made)
    assert shop.deletes() == []


def test_the_intent_with_the_bytes_is_on_the_disk_before_each_delete(shop, monkeypatch):
    old = image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    seen = []
    remove = shop.store.delete_manifest

    def watched(repository, reference):
        with Journal(shop.journal.path) as reader:
            seen.append(reader.manifest(reference))
        seen[:] = filter(None, seen)  # the probe comes before any intent
        return remove(repository, reference)

    expected = shop.store.manifest(APP, old)
    monkeypatch.setattr(shop.store, "delete_manifest", watched)
    shop.execute(made)
    assert seen == [expected]


def test_progress_hears_each_outcome_and_the_run_is_what_the_journal_says(shop):
    family(shop)
    made, heard = shop.plan("old", "old-alias"), []
    run = shop.execute(made, progress=heard.append)
    assert [o.key for o in heard] == [o.key for o in run.outcomes] == [row.key for row in made.rows]
    assert list(heard[0].to_dict()) == ["key", "repository", "digest", "tags", "action", "outcome", "detail", "at"]
    assert heard[0].to_dict()["tags"] == ["old", "old-alias"]
    assert [outcome.tags for outcome in heard] == [outcome.tags for outcome in run.outcomes]
    assert shop.cleaner.last_run(made) == run == shop.cleaner.run(run.id)
    frame = run.frame()
    assert list(frame) == ["key", "repository", "digest", "tags", "action", "outcome", "detail", "at"]
    assert list(frame["outcome"]) == ["deleted"] * 5
    assert frame["tags"][0] == "old old-alias"
    assert frame["at"].dtype == "datetime64[us, UTC]"
    assert set(frame.drop(columns="at").dtypes) == {pd.StringDtype()}
    assert shop.journal.verify() == 4 + 2 * 5 + 4  # and what was kept of four before their index went


def selected(whole, *tags):
    return whole.select([row.key for row in whole.rows if set(row.tags) & set(tags)]).approve("Ada")


def test_the_last_run_of_a_plan_may_be_one_of_a_selection_of_it(shop):
    for name in ("a", "b", "c"):
        image(shop.store, APP, name, name)
    whole = shop.plan("a", "b", "c")
    first, second = selected(whole, "a", "b"), selected(whole, "c")
    assert shop.cleaner.last_run(whole) is None
    run = shop.execute(first)
    assert shop.cleaner.last_run(whole) == shop.cleaner.last_run(first) == run
    assert shop.cleaner.last_run(second) is None
    shop.cleaner.undo(run)
    assert shop.cleaner.last_run(whole) == run
    newer = shop.execute(second)
    assert shop.cleaner.last_run(whole) == shop.cleaner.last_run(second) == newer
    assert shop.cleaner.last_run(first) == run


def test_a_run_of_another_snapshot_is_no_run_of_the_plan_although_the_rows_are_the_same(shop):
    image(shop.store, APP, "a", "a")
    made, later = shop.plan("a"), shop.plan("a")
    run = shop.execute(made)
    assert made.rows == later.rows
    assert shop.cleaner.last_run(later) is None
    assert shop.cleaner.last_run(made) == run


def test_in_a_journal_of_before_snapshots_were_noted_a_plan_is_found_by_its_hash(shop):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    whole = shop.plan("a", "b")
    part = selected(whole, "a")
    rows = [row.to_dict() for row in part.rows]
    shop.journal.record("old", "started", kind="delete", registry=part.registry, plan_hash=part.hash, rows=rows)
    assert shop.cleaner.last_run(part).id == "old"
    assert shop.cleaner.last_run(whole) is None


# -- what changed after the review -----------------------------------------------------------


def test_a_new_alias_keeps_the_digest_and_what_goes_with_it(shop):
    top, *rest = family(shop)
    made = shop.plan("old", "old-alias")
    shop.store.set_tag(APP, "precious", top)
    run = shop.execute(made)
    assert set(run.counts()) == {"skipped"}
    assert "new_alias: precious" in run.outcomes[0].detail
    assert set(shop.store.digests(APP)) >= {top, *rest}
    assert run.ok
    assert shop.deletes() == []


def test_an_alias_that_arrives_between_two_rows_is_seen(shop):
    image(shop.store, APP, "a", "a")
    second = image(shop.store, APP, "b", "b")
    made = shop.plan("a", "b")
    run = shop.execute(made, progress=lambda _: shop.store.set_tag(APP, "precious", second))
    assert words(run) == {"a": "deleted", "b": "skipped"}
    assert "new_alias: precious" in run.outcomes[1].detail


def test_between_two_rows_only_their_own_tags_are_read_and_the_others_before_and_after_all(shop):
    for name in ("a", "b", "c"):
        image(shop.store, APP, name, name)
    shop.execute(shop.plan("a", "b", "c"))
    asked = [method for method, path, _ in shop.sandbox.requests if path.endswith("/keep")]
    assert asked == ["HEAD", "HEAD"]


def read(shop, digests):
    """Return how often manifests were read since the run began."""
    got = [path.rpartition("/")[2] for method, path, _ in shop.sandbox.requests if method == "GET"]
    return sum(got.count(digest) for digest in digests)


def test_what_two_newcomers_share_is_read_once(shop):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    shared = image(shop.store, APP, "shared")
    pair = [index(shop.store, APP, [shared], name=name) for name in "xy"]
    index(shop.store, APP, pair, "newcomer", name="outer")
    assert shop.execute(made).ok
    assert read(shop, [shared]) == 1


def test_a_newcomer_that_nests_deeper_than_anybody_does_is_not_read_for_ever(shop):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    chain = [image(shop.store, APP, "inmost")]
    for depth in range(12):
        chain.append(index(shop.store, APP, chain[-1:], name=f"depth {depth}"))
    shop.store.set_tag(APP, "newcomer", chain[-1])
    assert shop.execute(made).ok
    assert read(shop, chain) == 1 + surroundings._DEEPEST


def test_tags_that_lead_nowhere_hide_no_newcomer_behind_them(shop, monkeypatch):
    monkeypatch.setattr(surroundings, "_FEW", 100)  # tags are read in their order
    child = image(shop.store, APP, "child")
    index(shop.store, APP, [child], "old", name="old")
    made = shop.plan("old")
    index(shop.store, APP, [child], "newcomer", name="newcomer")
    for number in range(6):
        shop.store.set_tag(APP, f"dangling-{number}", str(Digest.of(b"nothing")))
    run = shop.execute(made)
    assert {o.digest for o in run.outcomes if o.outcome == "skipped"} == {child}


def test_a_tag_that_was_moved_survives_and_so_does_the_reviewed_digest(shop):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    new = image(shop.store, APP, "new", "old")
    run = shop.execute(made)
    assert only(run) == "skipped"
    assert "tag_moved: old" in run.outcomes[0].detail
    assert shop.journal.last(run.id, made.rows[0].key, "intent") is None
    assert shop.store.tags(APP)["old"] == new


def test_a_kept_tag_that_moves_onto_a_digest_of_the_plan_is_seen_when_all_tags_are_due_again(shop, monkeypatch):
    monkeypatch.setattr(surroundings, "_LOOK_AT_ALL_AFTER", 0.0)
    image(shop.store, APP, "a", "a")
    second = image(shop.store, APP, "b", "b")
    run = shop.execute(shop.plan("a", "b"), progress=lambda _: shop.store.set_tag(APP, "keep", second))
    assert words(run) == {"a": "deleted", "b": "skipped"}


@pytest.mark.parametrize("nested", [False, True])
def test_a_child_that_a_new_index_needs_is_kept(shop, nested):
    _, child, other, *_ = family(shop)
    made = shop.plan("old", "old-alias")
    newcomer = index(shop.store, APP, [child], *([] if nested else ["newcomer"]), name="newcomer")
    if nested:
        index(shop.store, APP, [newcomer], "outer", name="outer")
    run = shop.execute(made)
    kept = {o.digest for o in run.outcomes if o.outcome == "skipped"}
    assert kept == {child}
    assert "now_referenced" in next(o.detail for o in run.outcomes if o.digest == child)
    assert other not in shop.store.digests(APP)


def test_an_index_that_a_new_index_needs_is_kept_with_its_children(shop):
    top, *children = family(shop)[:3]
    made = shop.plan("old", "old-alias")
    index(shop.store, APP, [top], "outer", name="outer")
    run = shop.execute(made)
    assert set(run.counts()) == {"skipped"}
    assert set(shop.store.digests(APP)) >= {top, *children}


def new_referrer(shop, digest):
    image(shop.store, APP, "proof", subject=digest, config_type=OCI_EMPTY)


def new_tagged_referrer(shop, digest):
    image(shop.store, APP, "proof", "proof", subject=digest, config_type=OCI_EMPTY)


def new_signature(shop, digest):
    image(shop.store, APP, "proof", f"{attached_tag(Digest(digest))}.sig")


def new_fallback_list(shop, digest):
    proof = image(shop.store, APP, "proof", subject=digest, config_type=OCI_EMPTY)
    index(shop.store, APP, [proof], attached_tag(Digest(digest)))


@pytest.mark.parametrize("newcomer", [new_referrer, new_tagged_referrer, new_signature, new_fallback_list])
@pytest.mark.parametrize("interface", [True, False])
def test_a_new_referrer_or_signature_keeps_its_subject(tmp_path, newcomer, interface):
    if newcomer is new_referrer and not interface:
        newcomer = new_fallback_list  # without the interface nobody can see a referrer that no tag lists
    with opened(tmp_path, referrers=interface) as shop:
        old = image(shop.store, APP, "old", "old")
        made = shop.plan("old")
        newcomer(shop, old)
        run = shop.execute(made)
        assert only(run) == "skipped"
        assert "now_referenced" in run.outcomes[0].detail


def test_a_signature_that_was_renewed_after_the_review_keeps_its_subject(shop):
    top, *_ = family(shop)
    made = shop.plan("old", "old-alias")
    new_signature(shop, top)
    run = shop.execute(made)
    assert set(run.counts()) == {"skipped"}


def test_a_signature_that_somebody_gave_a_name_after_the_review_keeps_its_subject(shop):
    old = image(shop.store, APP, "old", "old")
    signature = image(shop.store, APP, "signature", subject=old, config_type=OCI_EMPTY)
    made = shop.plan("old")
    assert [row.digest for row in made.rows] == [old, signature]
    shop.store.set_tag(APP, "mine", signature)
    run = shop.execute(made)
    assert set(run.counts()) == {"skipped"}
    assert "now_referenced: mine" in run.outcomes[0].detail
    assert set(shop.store.digests(APP)) >= {old, signature}


def test_an_index_goes_before_what_it_lists_although_a_tag_says_that_it_signs_it(shop):
    signature = image(shop.store, APP, "signature")
    top = index(shop.store, APP, [signature], "old", f"{attached_tag(Digest(signature))}.sig")
    made = shop.plan("old")
    assert [(row.digest, row.needs) for row in made.rows] == [(top, ()), (signature, (f"{APP}@{top}",))]
    assert shop.execute(made).counts() == {"deleted": 2}


def test_a_referrer_that_is_listed_and_gone_keeps_nothing(shop, monkeypatch):
    old = image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    ghost = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"ghost")), "size": 5}
    monkeypatch.setattr(shop.store, "referrers", lambda repository, subject: [ghost])
    assert only(shop.execute(made)) == "deleted"
    assert old not in shop.store.digests(APP)


def test_what_is_gone_already_is_not_counted_as_ours(shop):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    shop.store.delete_manifest(APP, shop.store.tags(APP)["old"])
    run = shop.execute(made)
    assert only(run) == "already_absent"
    assert run.ok
    assert shop.deletes() == []


def test_children_of_an_index_that_is_gone_already_still_go(shop):
    top, *_ = family(shop)
    made = shop.plan("old", "old-alias")
    shop.store.delete_manifest(APP, top)
    counts = shop.execute(made).counts()
    assert counts == {"already_absent": 1, "deleted": 4}


def test_a_repository_that_is_gone_is_said_and_the_next_one_goes_on(shop):
    image(shop.store, "aaa", "x", "x", "y")
    image(shop.store, "aaa", "z", "z")
    image(shop.store, APP, "old", "old")
    made = shop.plan("aaa:z", "old")
    shop.store.drop_repository("aaa")
    run = shop.execute(made)
    assert words(run) == {"z": "repository_missing", "old": "deleted"}
    assert not run.ok


# -- a front that alters what DELETE answers -------------------------------------------------


class Front:
    """Passes everything on to the sandbox; DELETEs go through `on_delete(seen, forward)`."""

    def __init__(self, hostile, sandbox):
        self._sandbox, self.on_delete, self.gets_after = sandbox, None, None
        self.host, self.deletes, self.sent = hostile.host, [], 0
        self._ever = set()
        hostile.on("*", self._answer)

    def _answer(self, seen):
        self._ever |= set(self._sandbox.store.digests(APP))
        if seen.method == "DELETE" and seen.path.rpartition("/")[2] not in self._ever:
            return self.forward(seen)  # the probe, which asks for what was never there
        if seen.method != "DELETE":
            return self.gets_after(seen, self.forward) if self.deletes and self.gets_after else self.forward(seen)
        self.deletes.append(seen.path)
        return self.on_delete(seen, self.forward)

    def forward(self, seen):
        return passed_on(seen, self._sandbox.host)


@pytest.fixture
def front(tmp_path):
    with Sandbox() as sandbox, Hostile() as hostile:
        front = Front(hostile, sandbox)
        front.shop = Shop(sandbox, tmp_path, Registry(front.host))
        for name in ("a", "b"):
            image(sandbox.store, APP, name, name)
        yield front
        front.shop.close()


def after(answer):
    """Delete, and then answer this."""

    def script(seen, forward):
        forward(seen)
        return answer

    return script


def instead(*answers):
    """Answer this without deleting anything; the last one again and again."""
    left = list(answers)
    return lambda seen, forward: left.pop(0) if len(left) > 1 else left[0]


UNKNOWN = error(404, "MANIFEST_UNKNOWN")
TABLE = {
    "202 and gone": (after(reply(202)), "deleted", True),
    "200 and gone": (after(reply(200)), "deleted", True),
    "204 and gone": (after(reply(204, length=None)), "deleted", True),
    "202 and still there": (instead(reply(202)), "not_deleted", True),
    "404 and gone, by somebody else": (after(UNKNOWN), "already_absent", True),
    "404 after a 503 of our own": (lambda: None, "deleted_unconfirmed", True),
    "404 that names the repository": (instead(error(404, "NAME_UNKNOWN")), "repository_missing", False),
    "404 that is not a registry's": (instead(reply(404, b"<h1>nginx</h1>")), "repository_missing", False),
    "405": (instead(error(405, "UNSUPPORTED")), "disabled", False),
    "400 UNSUPPORTED": (instead(error(400, "UNSUPPORTED")), "disabled", False),
    "400 and still there": (instead(error(400, "DIGEST_INVALID")), "not_deleted", True),
    "400 and gone": (after(error(400, "DIGEST_INVALID")), "deleted_unconfirmed", True),
    "401": (instead(error(401, "UNAUTHORIZED")), "denied", False),
    "403": (instead(error(403, "DENIED")), "denied", False),
    "403 referenced": (instead(error(403, "DENIED", "referenced by another image")), "refused_by_registry", True),
    "405 with a code of its own": (instead(error(405, "DENIED")), "refused_by_registry", True),
    "405 of a proxy": (instead(reply(405)), "disabled", False),
    "409": (instead(error(409, "CONFLICT")), "refused_by_registry", True),
    "423": (instead(error(423, "LOCKED")), "refused_by_registry", True),
    "400 referenced": (
        instead(error(400, "REFUSED", "manifest is referenced by an index")),
        "refused_by_registry",
        True,
    ),
    "400 immutable": (instead(error(400, "REFUSED", "tag is immutable")), "refused_by_registry", True),
    "412 immutable": (instead(error(412, "PRECONDITION", "tag is immutable")), "refused_by_registry", True),
    "503 again and again": (instead(error(503, "UNAVAILABLE", Retry_After="0")), "rate_limited", False),
    "429 for hours": (instead(error(429, "TOOMANYREQUESTS", Retry_After="20000")), "rate_limited", False),
    "500 and gone": (after(error(500, "UNKNOWN")), "deleted_unconfirmed", True),
    "500 and still there": (instead(error(500, "UNKNOWN")), "not_deleted", True),
    "504 and still there": (instead(reply(504)), "not_deleted", True),
    "a reset after it was done": (after(Cut(b"", 0, reset=True)), "deleted_unconfirmed", True),
    "a reset before it was done": (instead(Cut(b"", 0, reset=True)), "not_deleted", True),
    "half an answer after it was done": (after(Cut(reply(202), 20)), "deleted_unconfirmed", True),
    "a redirect": (instead(redirect("http://127.0.0.1:1/x")), "refused_redirect", False),
}

# What a person reads of it, and acts on.
SAYS = {
    "202 and gone": "",
    "200 and gone": "the answer was 200",
    "204 and gone": "the answer was 204",
    "202 and still there": "accepted (202), and still there after 0 s",
    "404 and gone, by somebody else": "somebody else deleted it at the same time, or a proxy sent the request twice",
    "404 after a 503 of our own": "gone, although the answer was 404 MANIFEST_UNKNOWN",
    "404 that names the repository": "the answer was 404 NAME_UNKNOWN: no registry knows the repository there",
    "404 that is not a registry's": "the answer was 404: no registry knows the repository there",
    "405": ENABLE_DELETION,
    "400 UNSUPPORTED": ENABLE_DELETION,
    "400 and still there": "still there; the answer was 400 DIGEST_INVALID",
    "400 and gone": "gone, although the answer was 400 DIGEST_INVALID",
    "401": "the credentials do not allow deletion",
    "403": "the credentials do not allow deletion",
    "403 referenced": "the registry keeps it (403 DENIED referenced by another image): an index or an artifact that is not in the plan",
    "405 with a code of its own": "the registry keeps it (405 DENIED): an index or an artifact that is not in the plan needs it",
    "405 of a proxy": ENABLE_DELETION,
    "409": "the registry keeps it (409 CONFLICT): an index or an artifact that is not in the plan needs it",
    "423": "the registry keeps it (423 LOCKED): unlock it there, and apply the same plan again",
    "400 referenced": "the registry keeps it (400 REFUSED manifest is referenced by an index): an index or an artifact that",
    "400 immutable": "the registry keeps it (400 REFUSED tag is immutable): unlock it there",
    "412 immutable": "the registry keeps it (412 PRECONDITION tag is immutable): unlock it there",
    "503 again and again": "the registry asks for fewer requests: go on later with the same plan",
    "429 for hours": "the registry asks to wait 20000 s",
    "500 and gone": "gone, although the answer was 500 UNKNOWN",
    "500 and still there": "still there; the answer was 500 UNKNOWN",
    "504 and still there": "still there; the answer was 504",
    "a reset after it was done": "gone, although there was no answer: http",
    "a reset before it was done": "the connection ended before the answer did",
    "half an answer after it was done": "gone, although there was no answer: http",
    "a redirect": "a DELETE is never redirected",
}


def busy_then_gone():
    """Carry the deletion out, say 503, and answer what comes after truthfully."""
    first = [True]

    def script(seen, forward):
        answer = forward(seen)
        return error(503, "UNAVAILABLE", Retry_After="0") if first and first.pop() else answer

    return script


@pytest.mark.parametrize("case", TABLE)
def test_the_outcome_is_what_a_read_shows_and_the_table_says(front, case):
    script, word, goes_on = TABLE[case]
    front.on_delete = busy_then_gone() if case.startswith("404 after") else script
    made = front.shop.plan("a", "b")
    run = front.shop.execute(made)
    first = run.outcomes[0]
    gone = first.digest not in front.shop.store.digests(APP)
    assert first.outcome == word, first.detail
    assert SAYS[case] in first.detail
    assert SAYS[case] or not first.detail
    assert (word in GONE) == gone
    assert (len(set(front.deletes)) > 1) == goes_on
    assert front.shop.journal.last(run.id, first.key, "outcome").data["outcome"] == word


def test_a_wait_that_the_registry_asks_for_is_kept_and_then_it_goes_on(front):
    answers = iter([error(429, "TOOMANYREQUESTS", Retry_After="0"), error(503, "UNAVAILABLE", Retry_After="0")])
    front.on_delete = lambda seen, forward: next(answers, None) or forward(seen)
    assert front.shop.execute(front.shop.plan("a", "b")).counts() == {"deleted": 2}
    assert len(front.deletes) == 4


def test_a_deletion_that_shows_late_is_waited_for(front, monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 30.0)
    late = []

    def remember(seen, forward):
        late.append(seen)
        return reply(202)

    def show(seen, forward):
        answer = forward(seen)
        if "/manifests/sha256" in seen.path and len(late) and late[0] is not None and seen.path == late[0].path:
            forward(late[0])
            late[0] = None
        return answer

    front.on_delete, front.gets_after = remember, show
    assert only(front.shop.execute(front.shop.plan("a"))) == "deleted"


@pytest.mark.parametrize("answer", [Cut(b"", 0, reset=True), error(500, "UNKNOWN")])
def test_a_reply_that_was_lost_while_the_deletion_goes_on_is_waited_for_too(front, monkeypatch, answer):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 30.0)
    looks = []

    def show(seen, forward):
        answer = forward(seen)
        if seen.path == front.deletes[0]:
            looks.append(seen)
            if len(looks) == 2:
                front.shop.store.delete_manifest(APP, seen.path.rpartition("/")[2])
        return answer

    front.on_delete, front.gets_after = instead(answer), show
    assert only(front.shop.execute(front.shop.plan("a"))) == "deleted_unconfirmed"


def test_what_cannot_be_read_afterwards_is_unknown_and_the_next_run_learns_it(front):
    front.on_delete = after(reply(202))
    front.gets_after = lambda seen, forward: error(500, "UNKNOWN")
    made = front.shop.plan("a")
    assert only(front.shop.execute(made)) == "unknown"
    front.gets_after = None
    again = front.shop.execute(made)
    assert only(again) == "deleted_unconfirmed"
    assert len(front.deletes) == 1
    assert only(front.shop.cleaner.undo(again)) == "restored"


@pytest.mark.parametrize(
    ("answer", "word", "later"),
    [
        (reply(202), "not_deleted", "deleted_unconfirmed"),  # it may have taken its time
        (error(403, "DENIED"), "denied", "already_absent"),
    ],
)
def test_what_is_gone_when_a_plan_is_applied_again_is_ours_unless_the_registry_had_said_no(front, answer, word, later):
    front.on_delete = instead(answer)
    made = front.shop.plan("a")
    assert only(front.shop.execute(made)) == word
    front.shop.store.delete_manifest(APP, made.rows[0].digest)
    assert only(front.shop.execute(made)) == later


def test_a_404_of_a_server_that_is_no_registry_any_more_is_not_taken_for_success(front):
    front.on_delete = instead(reply(202))
    front.gets_after = lambda seen, forward: reply(404, b"<html>where am I</html>")
    assert only(front.shop.execute(front.shop.plan("a"))) == "unknown"


def test_a_404_without_a_code_is_believed_where_the_registry_still_lists_tags(front):
    front.on_delete = after(reply(202))
    front.gets_after = lambda seen, forward: reply(404, b"<html>") if seen.path in front.deletes else forward(seen)
    assert only(front.shop.execute(front.shop.plan("a"))) == "deleted"


def test_a_deletion_that_a_proxy_sent_twice_can_be_undone(front):
    """It tells of the second time, which is a 404: nobody can know whose deletion the first was."""
    front.on_delete = lambda seen, forward: (forward(seen), forward(seen))[1]
    run = front.shop.execute(front.shop.plan("a"))
    assert only(run) == "already_absent"
    assert only(front.shop.cleaner.undo(run)) == "restored"
    assert "a" in front.shop.store.tags(APP)


def test_nothing_follows_a_redirect_of_a_delete(front):
    with Hostile() as other:
        front.on_delete = instead(redirect(f"{other.url}/v2/x", 307))
        front.shop.execute(front.shop.plan("a", "b"))
        assert other.requests == []
    assert len(front.deletes) == 1


@pytest.mark.parametrize(
    ("answer", "word", "stops"),
    [
        (error(403, "DENIED"), "denied", True),
        (error(429, "TOOMANYREQUESTS", Retry_After="20000"), "rate_limited", True),
        (error(400, "ODD"), "failed", False),
    ],
)
def test_a_tag_that_cannot_be_read_again_keeps_its_repository(front, answer, word, stops):
    made = front.shop.plan("a", "b")
    front.gets_after, front.deletes = lambda seen, forward: answer, ["as if"]
    run = front.shop.execute(made)
    assert run.counts() == {word: 2}
    assert run.outcomes[0].detail.startswith("not read again, so not deleted: ") == (word == "failed")
    assert run.stopped == stops
    assert not run.ok
    assert front.deletes == ["as if"]


def test_where_the_last_look_fails_nothing_is_asked_although_the_intent_is_recorded(shop):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b")
    shop.sandbox.faults.add(path=f"/v2/{APP}/tags/list", skip=1, status=403)
    run = shop.execute(made)
    assert words(run) == {"a": "denied"}
    assert [e.event for e in shop.journal.entries(run.id)] == [
        "planned",
        "started",
        "probed",
        "intent",
        "outcome",
        "finished",
    ]
    assert shop.deletes() == []
    assert run.stopped


def test_where_what_stays_cannot_be_read_afterwards_the_log_says_so_and_the_deletion_counts(shop, caplog):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    remove = shop.store.delete_manifest

    def and_shut(repository, reference):
        if reference == made.rows[0].digest:
            shop.sandbox.faults.add(path=f"/v2/{APP}/tags/list", status=403)
        return remove(repository, reference)

    shop.store.delete_manifest = and_shut
    assert words(shop.execute(made)) == {"old": "deleted"}
    assert [m for m in caplog.messages if m.startswith(f"{APP} could not be read after the deletion: ")]


# -- registries that refuse ------------------------------------------------------------------


def test_where_deletion_is_disabled_nothing_is_asked_to_go_and_it_says_how_to_enable_it(tmp_path):
    with opened(tmp_path, deletion=False) as shop:
        for name in ("a", "b", "c"):
            image(shop.store, APP, name, name)
        image(shop.store, WEB, "w", "w")
        image(shop.store, WEB, "k", "k")
        run = shop.execute(shop.plan("a", "b", "c", f"{WEB}:w"))
        assert shop.deletes() == []
        assert run.counts() == {"disabled": 1}
        assert "REGISTRY_STORAGE_DELETE_ENABLED" in run.outcomes[0].detail
        assert run.stopped
        assert not run.ok


def test_without_the_right_to_delete_it_stops_before_the_second(tmp_path):
    rights = {"ada": "repository:*:pull,push registry:catalog:*"}
    with Sandbox(users={"ada": "pw"}, auth=Login(rights=rights)) as sandbox:
        shop = Shop(sandbox, tmp_path, Registry(sandbox.host, username="ada", password="pw"))
        for name in ("a", "b"):
            image(shop.store, APP, name, name)
        run = shop.execute(shop.plan("a", "b"))
        assert run.counts() == {"denied": 1}
        assert len(set(shop.deletes())) == 1
        assert set(shop.store.tags(APP)) == {"a", "b", "keep"}
        shop.close()


def test_what_a_new_index_lists_keeps_also_what_that_refers_to(shop):
    subject = image(shop.store, APP, "old", "old")
    signature = image(shop.store, APP, "sig", subject=subject, config_type=OCI_EMPTY)
    made = shop.plan("old")
    assert {row.digest for row in made.rows} == {subject, signature}
    index(shop.store, APP, [signature], "collected")  # a signature that was to go along, and now has a name
    run = shop.execute(made)
    assert set(run.counts()) == {"skipped"}
    assert shop.deletes() == []


# -- tags that go alone ----------------------------------------------------------------------


def test_one_tag_that_a_rule_holds_does_not_keep_the_others(front):
    store = front.shop.store
    for name in ("a", "b"):
        store.set_tag(APP, f"{name}-alias", store.tags(APP)[name])
    front._ever |= {"a", "b"}  # the probe asks for a tag that was never there
    held = error(412, "PRECONDITION", "a is configured as immutable")
    front.on_delete = lambda seen, forward: held if seen.path.endswith("/a") else forward(seen)
    run = front.shop.execute(front.shop.plan("a", "b", untag=True))
    assert words(run) == {"a": "refused_by_registry", "b": "deleted"}
    assert "unlock it there" in run.outcomes[0].detail


def test_only_the_tag_goes_and_undo_sets_it_again(shop):
    image(shop.store, APP, "old", "1.0", "latest")
    before = content(shop.store)
    made = shop.plan("1.0", untag=True)
    run = shop.execute(made)
    assert shop.deletes() == [f"/v2/{APP}/manifests/1.0"]
    assert only(run) == "deleted"
    assert set(shop.store.tags(APP)) == {"keep", "latest"}
    assert words(shop.cleaner.undo(run)) == {"1.0": "restored"}
    assert content(shop.store) == before


def test_where_tags_cannot_be_deleted_none_is_asked_to_go_and_it_is_said(tmp_path):
    with opened(tmp_path, tag_deletion=False) as shop:
        image(shop.store, APP, "old", "1", "2", "latest")
        run = shop.execute(shop.plan("1", "2", untag=True))
        assert run.counts() == {"refused_by_registry": 2}
        assert shop.deletes() == []


def test_a_registry_that_deletes_the_manifest_with_its_tag_is_stopped_after_one_and_undone(shop, monkeypatch):
    image(shop.store, APP, "a", "a-old", "a")
    image(shop.store, APP, "b", "b-old", "b")
    before = content(shop.store)
    made = shop.plan("a-old", "b-old", untag=True)
    remove = shop.store.delete_manifest
    monkeypatch.setattr(shop.store, "delete_manifest", lambda r, tag: remove(r, shop.store.tags(r).get(tag, tag)))
    run = shop.execute(made)
    assert [o.outcome for o in run.outcomes if o.key == f"{APP}:a-old"] == ["lost"]
    assert len(shop.deletes()) == 1
    assert not run.ok
    shop.cleaner.undo(run)
    assert content(shop.store) == before


@pytest.mark.parametrize("status", [405, 400])
def test_after_one_refusal_to_delete_by_tag_no_further_tag_is_asked_to_go(shop, status):
    """The probe had found that it does so; a rule may hold for some repositories alone."""
    image(shop.store, APP, "old", "1", "2", "latest")
    made = shop.plan("1", "2", untag=True)
    shop.sandbox.faults.add(method="DELETE", path=f"/v2/{APP}/manifests/1", status=status)
    run = shop.execute(made)
    assert run.counts() == {"refused_by_registry": 2}
    assert {outcome.detail for outcome in run.outcomes} == {"the registry does not delete by tag"}
    assert shop.deletes() == [f"/v2/{APP}/manifests/1"]
    assert set(shop.store.tags(APP)) == {"1", "2", "latest", "keep"}


def test_whether_only_the_tag_went_is_unknown_where_its_manifest_cannot_be_read(shop):
    digest = image(shop.store, APP, "old", "1", "latest")
    made = shop.plan("1", untag=True)
    shop.sandbox.faults.add(method="GET", path=f"/v2/{APP}/manifests/{digest}", skip=1, status=403)
    run = shop.execute(made)
    assert only(run) == "unknown"
    assert "whether only the tag went" in run.outcomes[0].detail
    assert "1" not in shop.store.tags(APP)


def test_a_tag_that_is_gone_or_was_moved_is_not_asked_for(shop):
    image(shop.store, APP, "x", "gone", "moved", "stays")
    made = shop.plan("gone", "moved", untag=True)
    shop.store.delete_manifest(APP, "gone")
    image(shop.store, APP, "y", "moved")
    run = shop.execute(made)
    assert words(run) == {"gone": "already_absent", "moved": "skipped"}
    assert shop.deletes() == []


# -- what was to stay ------------------------------------------------------------------------


def test_a_kept_tag_that_vanishes_meanwhile_is_reported_as_lost(shop):
    image(shop.store, APP, "old", "old")
    run = shop.execute(
        shop.plan("old"), progress=lambda o: o.outcome == "deleted" and shop.store.drop_manifest(APP, shop.keep)
    )
    assert words(run) == {"old": "deleted", "keep": "lost"}
    assert not run.ok


def vanishing(shop, take):
    """Delete one image; meanwhile somebody takes the tag of another away."""
    image(shop.store, APP, "old", "old")
    run = shop.execute(shop.plan("old"), progress=lambda o: o.outcome == "deleted" and take())
    assert words(run) == {"old": "deleted", "keep": "lost"}
    return run


def test_undo_sets_a_kept_tag_that_vanished_meanwhile_where_it_was_seen_last(shop):
    before = content(shop.store)
    run = vanishing(shop, lambda: shop.store.delete_manifest(APP, "keep"))
    undone = shop.cleaner.undo(run)
    assert words(undone) == {"old": "restored", "keep": "restored"}
    assert "seen last" in undone.frame().query("tags == 'keep'")["detail"].item()
    assert content(shop.store)[APP][0] == before[APP][0] | {"old": made_digest(run, "old")}
    assert words(shop.cleaner.undo(run)) == {"old": "already_there", "keep": "already_there"}


def test_undo_of_one_tag_alone_sets_the_one_that_vanished(shop):
    run = vanishing(shop, lambda: shop.store.delete_manifest(APP, "keep"))
    undone = shop.cleaner.undo(run, only=f"{APP}:keep")
    assert words(undone) == {"keep": "restored"}
    assert set(shop.store.tags(APP)) == {"keep"}
    started = next(entry.data for entry in shop.journal.entries(undone.id))
    assert (started["undoes"], started["only"]) == (run.id, [f"{APP}:keep"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_undo_leaves_a_vanished_tag_where_somebody_has_set_it_since(shop, overwrite):
    run = vanishing(shop, lambda: shop.store.delete_manifest(APP, "keep"))
    newer = image(shop.store, APP, "newer", "keep")
    undone = shop.cleaner.undo(run, overwrite=overwrite)
    assert words(undone) == {"old": "restored", "keep": "already_there"}
    assert undone.outcomes[1].detail == "it leads somewhere again, and stays so"
    assert shop.store.tags(APP)["keep"] == newer


def test_undo_passes_over_a_vanished_tag_whose_manifest_somebody_deleted_too(shop):
    run = vanishing(shop, lambda: shop.store.drop_manifest(APP, shop.keep))
    undone = shop.cleaner.undo(run)
    assert words(undone) == {"old": "restored", "keep": "skipped"}
    assert undone.ok


def made_digest(run, tag):
    return next(outcome.digest for outcome in run.outcomes if outcome.tags == (tag,))


@pytest.mark.parametrize(
    ("newcomer", "says"),
    [
        ("tag", "it was pushed while its manifest was being deleted: undo puts the manifest back"),
        ("index", "it was pushed meanwhile and needs {}, which was deleted: undo puts it back"),
    ],
)
def test_what_comes_in_the_very_moment_of_a_deletion_and_needs_it_is_reported_as_lost(
    shop, monkeypatch, newcomer, says
):
    old = image(shop.store, APP, "old", "old")
    made, remove = shop.plan("old"), shop.store.delete_manifest

    def at_once(repository, reference):
        bundle = index(shop.store, APP, [old], name="bundle") if newcomer == "index" and reference == old else old
        remove(repository, reference)
        shop.store.set_tag(APP, "newcomer", bundle)

    monkeypatch.setattr(shop.store, "delete_manifest", at_once)
    run = shop.execute(made)
    assert words(run) == {"old": "deleted", "newcomer": "lost"}
    assert run.outcomes[1].detail == says.format(old)
    assert not run.ok
    undone = words(shop.cleaner.undo(run))
    assert undone == {"old": "restored"} | ({"newcomer": "already_there"} if newcomer == "index" else {})
    assert old in shop.store.digests(APP)


def test_kept_tags_are_looked_at_also_where_the_run_is_stopped(shop):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    stop = threading.Event()

    def break_and_stop(_):
        if not stop.is_set():
            stop.set()
            shop.store.drop_manifest(APP, shop.keep)

    run = shop.execute(shop.plan("a", "b"), progress=break_and_stop, stop=stop)
    assert words(run) == {"a": "deleted", "keep": "lost"}
    assert run.stopped


# -- lists of referrers ----------------------------------------------------------------------


@pytest.fixture
def listing(tmp_path):
    """Give a shop without the referrers interface, with a plan for one of two artifacts that a list names."""
    with opened(tmp_path, referrers=False) as shop:
        subject = image(shop.store, APP, "app", "1.0")
        shop.sboms = [image(shop.store, APP, f"sbom-{n}", subject=subject, config_type=OCI_EMPTY) for n in range(2)]
        shop.tag = attached_tag(Digest(subject))
        shop.list = index(shop.store, APP, shop.sboms, shop.tag)
        rows = pd.DataFrame({"repository": [APP], "digest": shop.sboms[:1]})
        shop.made = plan(collect(shop.registry, progress=False), rows).approve("Ada")
        yield shop


def listed(shop):
    return [entry["digest"] for entry in json.loads(shop.store.manifest(APP, shop.tag)[1])["manifests"]]


def test_a_list_that_the_registry_does_not_take_is_said_and_written_by_the_next_run(listing):
    longer = [*listing.sboms, image(listing.store, APP, "another")]
    now = index(listing.store, APP, longer, listing.tag)  # since the review: the one that is found counts
    fault = listing.sandbox.faults.add(method="PUT", path=f"/v2/{APP}/manifests/*", status=403)
    run = listing.execute(listing.made)
    assert words(run) == {listing.sboms[0]: "deleted", listing.tag: "not_rewritten"}
    assert "apply the plan again: " in run.outcomes[1].detail
    assert run.outcomes[1].digest == listing.store.tags(APP)[listing.tag] == now
    listing.sandbox.faults.remove(fault)
    undone = listing.cleaner.undo(run)
    assert [(o.outcome, o.detail) for o in undone.outcomes] == [("restored", ""), ("already_there", "")]
    again = listing.execute(listing.made)
    assert again.counts() == {"deleted": 1, "rewritten": 1}
    assert again.outcomes[1].digest == now
    assert listed(listing) == longer[1:]


def test_a_list_that_cannot_be_read_after_it_was_written_is_unknown_and_the_next_run_finds_it_written(listing):
    fault = listing.sandbox.faults.add(path=f"/v2/{APP}/manifests/{listing.tag}", method="HEAD", skip=1, status=403)
    first = listing.execute(listing.made)
    assert words(first) == {listing.sboms[0]: "deleted", listing.tag: "unknown"}
    assert "could not be read" in first.outcomes[1].detail
    assert listed(listing) == listing.sboms[1:]
    listing.sandbox.faults.remove(fault)
    second = listing.execute(listing.made)
    assert second.counts() == {"deleted_before": 1, "rewritten": 1}
    assert second.outcomes[1].detail == f"run {first.id} had asked for it"
    assert not [path for method, path, _ in listing.sandbox.requests if method == "PUT"]
    for run in (second, first):
        listing.cleaner.undo(run)
    assert listing.store.tags(APP)[listing.tag] == listing.list


def test_a_list_that_is_found_shortened_after_it_was_not_seen_written_may_be_our_doing(listing):
    listing.sandbox.faults.add(method="PUT", path=f"/v2/{APP}/manifests/*", status=403)
    first = listing.execute(listing.made)
    shortened(listing)
    again = listing.execute(listing.made)
    assert again.counts() == {"deleted_before": 1, "rewritten": 1}
    assert again.outcomes[1].detail == f"run {first.id} had asked for it"


def removed(shop):
    shop.store.delete_manifest(APP, shop.list)


def made_an_image(shop):
    image(shop.store, APP, "other", shop.tag)


def shortened(shop):
    index(shop.store, APP, shop.sboms[1:], shop.tag)


@pytest.mark.parametrize(
    ("somebody", "word", "says"),
    [
        (removed, "already_absent", "not there any more"),
        (made_an_image, "skipped", "no list of referrers now"),
        (shortened, "already_absent", "does not list them any more"),
    ],
)
def test_a_list_that_somebody_changed_after_its_referrer_went_is_left_to_them(listing, somebody, word, says):
    run = listing.execute(listing.made, progress=lambda o: o.outcome == "deleted" and somebody(listing))
    assert words(run) == {listing.sboms[0]: "deleted", listing.tag: word}
    assert says in run.outcomes[1].detail
    assert run.ok
    assert not [path for method, path, _ in listing.sandbox.requests if method == "PUT"]


def test_undo_leaves_a_list_alone_that_is_something_else_by_now(listing):
    run = listing.execute(listing.made)
    made_an_image(listing)
    theirs = listing.store.tags(APP)[listing.tag]
    undone = listing.cleaner.undo(run)
    assert words(undone) == {listing.sboms[0]: "restored", listing.tag: "tag_moved"}
    assert undone.outcomes[1].detail == f"{listing.tag} was set to something else since, and stays so"
    assert listing.store.tags(APP)[listing.tag] == theirs


def test_undo_writes_a_list_anew_that_somebody_deleted_since(listing):
    run = listing.execute(listing.made)
    listing.store.delete_manifest(APP, listing.store.tags(APP)[listing.tag])
    assert listing.cleaner.undo(run).counts() == {"restored": 2}
    assert listing.store.tags(APP)[listing.tag] == listing.list


# -- whatever happens meanwhile --------------------------------------------------------------


@pytest.fixture(scope="module")
def playground(tmp_path_factory):
    """Give one sandbox for many examples, each in a repository of its own."""
    with Sandbox() as sandbox, Registry(sandbox.host) as door:
        yield sandbox.store, door, tmp_path_factory.mktemp("journals")


def meddle(store, repository, digests, what):
    """Do one of the things that somebody does in a registry while it is being cleaned."""
    kind, number, tag = what
    target = digests[number % len(digests)]
    if target not in store.digests(repository):
        return
    if kind == "set a tag":
        store.set_tag(repository, tag, target)
    elif kind == "push an index":
        index(store, repository, [target], tag, name=f"{tag}{number}")
    elif kind == "sign":
        image(store, repository, f"sign {tag}", f"{attached_tag(Digest(target))}.sig")
    elif kind == "refer":
        image(store, repository, f"refer {tag}", subject=target, config_type=OCI_EMPTY)
    elif kind == "delete":
        store.delete_manifest(repository, target)


MEDDLING = st.lists(
    st.tuples(
        st.sampled_from(["set a tag", "push an index", "sign", "refer", "delete", "nothing"]),
        st.integers(0, 9),
        st.sampled_from(["t0", "t1", "i0", "new", "newer"]),
    ),
    max_size=6,
)
COUNTER = itertools.count()


@given(before=MEDDLING, during=MEDDLING, chosen=st.sets(st.sampled_from(["t0", "t1", "t2", "i0", "i1"]), min_size=1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_others_do_between_two_rows_only_reviewed_digests_go_and_nothing_that_stays_breaks(
    playground, monkeypatch, before, during, chosen
):
    monkeypatch.setattr(surroundings, "_LOOK_AT_ALL_AFTER", 0.0)
    store, door, folder = playground
    repository = f"play/n{next(COUNTER)}"
    plain = [image(store, repository, f"m{n}", f"t{n}") for n in range(3)]
    child = image(store, repository, "child")
    indexes = [index(store, repository, [child, plain[n]], f"i{n}", name=f"i{n}") for n in range(2)]
    image(store, repository, "sig", f"{attached_tag(Digest(indexes[0]))}.sig")
    image(store, repository, "keep", "keep")
    digests = [*plain, child, *indexes]
    snapshot = collect(door, repository, progress=False)
    made = plan(snapshot, [f"{repository}:{tag}" for tag in chosen]).approve("Ada")
    for what in before:
        meddle(store, repository, digests, what)
    left, theirs = list(during), set()

    def meanwhile(_):
        if left:
            there = set(store.digests(repository))
            meddle(store, repository, digests, left.pop(0))
            theirs.update(there - set(store.digests(repository)))

    then = set(store.digests(repository))
    with Cleaner(door, journal=folder / f"{repository.replace('/', '-')}.sqlite") as cleaner:
        run = cleaner.execute(made, progress=meanwhile)
        cleaner.journal.verify()
    now = set(store.digests(repository))
    assert then - now - theirs <= {row.digest for row in made.rows}
    for outcome in run.outcomes:
        if outcome.outcome == "deleted":
            assert outcome.digest not in now
        taken = outcome.outcome == "deleted_unconfirmed" and "took it along" in outcome.detail
        assert taken or outcome.outcome in {"deleted", "already_absent", "skipped", "lost"}
    ours = {o.digest for o in run.outcomes if o.outcome == "deleted"}
    tagged = set(store.tags(repository).values())
    assert not tagged & ours
    for digest in now:
        document = json.loads(store.manifest(repository, digest)[1])
        assert document.get("subject", {}).get("digest") not in ours
        if digest in tagged:  # an index that no tag names, no client can find
            assert not {entry["digest"] for entry in document.get("manifests", ())} & ours


# -- stopping and crashing -------------------------------------------------------------------


def test_once_stop_is_set_no_further_deletion_is_begun(shop):
    for name in ("a", "b", "c"):
        image(shop.store, APP, name, name)
    stop = threading.Event()
    made = shop.plan("a", "b", "c")
    run = shop.execute(made, progress=lambda _: stop.set(), stop=stop)
    assert words(run) == {"a": "deleted"}
    assert run.stopped
    assert not run.ok
    assert str(run) == f"delete {run.id}: 1 deleted; stopped before the end"
    last = shop.execute(made)
    assert last.counts() == {"deleted_before": 1, "deleted": 2}
    assert str(last) == f"delete {last.id} (goes on after {run.id}): 1 deleted_before, 2 deleted"


def test_a_run_that_was_stopped_before_it_began_asks_nothing_and_says_so(shop):
    image(shop.store, APP, "a", "a")
    made, stop = shop.plan("a"), threading.Event()
    stop.set()
    run = shop.execute(made, stop=stop)
    assert str(run) == f"delete {run.id}: nothing to do; stopped before the end"
    assert not [method for method, *_ in shop.sandbox.requests if method == "DELETE"]


def test_a_notebook_shows_each_row_of_a_run_with_what_to_do_next_and_runs_nothing_of_it(shop):
    image(shop.store, APP, "old", "old")
    made = shop.plan("old")
    shop.store.delete_manifest(APP, made.rows[0].digest)
    shown = shop.execute(made)
    page = replace(shown, advice="<b>collect</b>")._repr_html_()
    (outcome,) = shown.outcomes
    for cell in ("repository", "tags", "outcome", "detail", APP, "old", outcome.outcome, outcome.detail):
        assert f">{cell}</t" in page
    assert f"<p>delete {shown.id}: " in page
    assert "<p>&lt;b&gt;collect&lt;/b&gt;</p>" in page
    assert "<p></p>" not in replace(shown, advice="")._repr_html_()


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_is_recorded_and_the_row_under_way_is_unknown(shop, monkeypatch, when):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b")
    alive, request = execution._alive, execution.Execution._request

    def interrupt(*_, **__):
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr(*((execution.Execution, "_request") if when == "before" else (execution, "_alive")), interrupt)
        run = shop.execute(made)
    assert (execution._alive, execution.Execution._request) == (alive, request)
    assert words(run) == {"a": "unknown"}
    assert run.stopped
    again = shop.execute(made)
    assert words(again) == {"a": "deleted" if when == "before" else "deleted_unconfirmed", "b": "deleted"}
    assert set(shop.store.tags(APP)) == {"keep"}


CRASH = """
import os, signal, sys
from pathlib import Path
from regaudit.cleaner import execution, surroundings
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.plan import Plan
from regaudit.client.registry import Registry

host, plan_file, journal, point, count = sys.argv[1:]
left = [int(count)]

def die_at(place, name, late=False):
    original = getattr(place, name)
    def dying(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0 and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(place, name, dying)

points = {
    "before intent": (Journal, "record_intent"), "after intent": (Journal, "record_intent", True),
    "after DELETE": (execution, "_alive"), "before outcome": (execution, "record_outcome"),
    "after outcome": (execution, "record_outcome", True), "while looking": (surroundings.Surroundings, "look"),
    "while checking": (execution.Execution, "_check_kept"),
}
die_at(*points[point])
with Registry(host) as registry:
    Cleaner(registry, journal=journal).execute(Plan.load(plan_file))
"""


@pytest.mark.parametrize(
    "point",
    [
        "before intent",
        "after intent",
        "after DELETE",
        "before outcome",
        "after outcome",
        "while looking",
        "while checking",
    ],
)
def test_after_a_kill_the_same_plan_finishes_the_work_and_loses_nothing_else(shop, tmp_path, point):
    going = family(shop)
    family(shop, "new")
    before = content(shop.store)
    made = shop.plan("old", "old-alias")
    file = made.save(tmp_path / "plan.json")
    arguments = [shop.sandbox.host, str(file), str(shop.journal.path), point, "0" if point == "while checking" else "1"]
    killed = subprocess.run([sys.executable, "-c", CRASH, *arguments], check=False)
    assert killed.returncode == -9
    shop.journal.verify()
    first = shop.cleaner.last_run(made)
    assert first.stopped
    second = shop.execute(made)
    assert not second.stopped
    assert set(second.counts()) <= {"deleted", "deleted_before", "deleted_unconfirmed"}
    assert set(before[APP][1]) - set(shop.store.digests(APP)) == set(going)
    for run in (second, first):  # together they know everything that is needed
        assert shop.cleaner.undo(run).ok
    assert content(shop.store) == before


def test_two_cleaners_with_journals_of_their_own_delete_each_digest_once(shop, tmp_path):
    for number in range(6):
        image(shop.store, APP, f"n{number}", f"n{number}")
    made = shop.plan(*(f"n{number}" for number in range(6)))
    runs = []

    def work(number):
        with Registry(shop.sandbox.host) as door, Cleaner(door, journal=tmp_path / f"{number}.sqlite") as cleaner:
            runs.append(cleaner.execute(made))

    shop.sandbox.requests.clear()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted = [path for method, path, status in shop.sandbox.requests if (method, status) == ("DELETE", 202)]
    assert len(accepted) == len(set(accepted)) == 6
    assert all(set(run.counts()) <= {"deleted", "already_absent"} for run in runs)
    assert sum(run.counts().get("deleted", 0) for run in runs) == 6
    assert set(shop.store.tags(APP)) == {"keep"}


# -- undo ------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", [True, False])
def test_undo_restores_every_manifest_byte_for_byte_and_every_tag(tmp_path, sample, interface):
    from regaudit.sandbox.sample import sample_images

    with opened(tmp_path, referrers=interface) as shop:
        shop.store.load(sample if interface else sample_images(sample.now, fallback_tags=True))
        before = content(shop.store)
        repository = "shop/checkout/api"
        tags = shop.store.tags(repository)
        signed = {tags[version] for version in ("1.4.2", "1.3.2", "1.0.0")}
        made = shop.plan(*(f"{repository}:{tag}" for tag, digest in tags.items() if digest in signed))
        assert {row.kind for row in made.rows} == {"index", "image", "artifact", "signature"}
        run = shop.execute(made)
        assert run.counts() == {"deleted": made.digests}
        left = set(shop.store.digests(repository))
        assert left == set(before[repository][1]) - {row.digest for row in made.rows}
        undone = shop.cleaner.undo(run)
        assert undone.kind == "undo"
        assert undone.counts() == {"restored": made.digests}
        assert content(shop.store) == before
        assert shop.cleaner.undo(run).counts() == {"already_there": made.digests}


def test_after_garbage_collection_undo_says_what_is_gone_and_leaves_no_half_restored_tag(shop):
    family(shop)
    made = shop.plan("old", "old-alias")
    run = shop.execute(made)
    shop.store.collect_garbage()
    after_deletion = content(shop.store)
    undone = shop.cleaner.undo(run)
    assert undone.counts() == {"blobs_gone": 5}
    assert not undone.ok
    assert content(shop.store) == after_deletion


@pytest.mark.parametrize(("layers", "more"), [(2, ""), (5, " and 3 more")])
def test_after_garbage_collection_three_of_the_blobs_that_are_gone_are_named_and_the_others_counted(shop, layers, more):
    raw = [b"{}", *(f"layer {number}".encode() for number in range(layers))]
    blobs = [{"mediaType": LAYER, "digest": shop.store.put_blob(APP, data), "size": len(data)} for data in raw]
    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blobs[0], "layers": blobs[1:]}
    put(shop.store, APP, OCI_MANIFEST, dump(fields), ["old"])
    run = shop.execute(shop.plan("old"))
    shop.store.collect_garbage()
    (outcome,) = shop.cleaner.undo(run).outcomes
    named = ", ".join(Digest(blob["digest"]).short for blob in blobs[:3])
    assert outcome.detail == f"collected as garbage, {len(blobs)} of its {len(blobs)} blobs: {named}{more}"


def test_an_index_that_the_registry_refuses_for_what_it_lists_is_said_to_be_gone(shop):
    """It was sparse before, and the registry has become stricter since."""
    child = image(shop.store, APP, "child")
    top = index(shop.store, APP, [child], "old")
    shop.store.drop_manifest(APP, child)
    run = shop.execute(shop.plan("old"))
    assert words(run) == {"old": "deleted"}
    shop.sandbox.faults.add(method="PUT", path=f"/v2/{APP}/manifests/{top}", status=404, code="MANIFEST_BLOB_UNKNOWN")
    (outcome,) = shop.cleaner.undo(run).outcomes
    assert outcome.outcome == "blobs_gone"
    assert "something that it needs was collected, or deleted by somebody" in outcome.detail


def test_what_was_stored_and_cannot_be_read_back_is_not_called_restored(front):
    front.on_delete = lambda seen, forward: forward(seen)
    front.gets_after = lambda seen, forward: reply(201) if seen.method == "PUT" else forward(seen)
    undone = front.shop.cleaner.undo(front.shop.execute(front.shop.plan("a")))
    assert only(undone) == "failed"
    assert undone.outcomes[0].detail.endswith("was stored, and a read does not show it")


def test_undo_leaves_a_tag_that_was_set_to_something_else_unless_told(shop):
    old = image(shop.store, APP, "old", "old", "alias")
    run = shop.execute(shop.plan("old", "alias"))
    new = image(shop.store, APP, "new", "old")
    assert only(shop.cleaner.undo(run)) == "tag_moved"
    assert shop.store.tags(APP) == {"keep": shop.keep, "old": new, "alias": old}
    assert only(shop.cleaner.undo(run, overwrite=True)) == "restored"
    assert shop.store.tags(APP)["old"] == old


def test_undo_puts_back_nothing_that_the_run_did_not_delete(shop):
    image(shop.store, APP, "a", "a")
    image(shop.store, APP, "b", "b")
    made = shop.plan("a", "b")
    shop.store.delete_manifest(APP, shop.store.tags(APP)["a"])
    run = shop.execute(made)
    assert words(shop.cleaner.undo(run.id)) == {"b": "restored"}
    assert "a" not in shop.store.tags(APP)


def test_undo_does_not_touch_what_was_skipped(shop):
    image(shop.store, APP, "a", "a")
    image(shop.store, APP, "b", "b")
    made = shop.plan("a", "b")
    theirs = image(shop.store, APP, "newer", "a")
    run = shop.execute(made)
    assert words(run) == {"a": "skipped", "b": "deleted"}
    assert run.left == (made.rows[0].key,)
    assert words(shop.cleaner.undo(run, overwrite=True)) == {"b": "restored"}
    assert shop.store.tags(APP)["a"] == theirs


def test_undo_says_of_what_the_journal_has_no_bytes_that_it_failed(shop):
    image(shop.store, APP, "old", "old")
    row = shop.plan("old").rows[0]
    fields = {"repository": APP, "digest": row.digest, "tags": ["old"], "outcome": "deleted"}
    shop.journal.record("odd", "started", kind="delete", registry=shop.registry.host, plan_hash="")
    shop.journal.record("odd", "outcome", row.key, **fields)
    shop.journal.record("odd", "finished", stopped=False)
    undone = shop.cleaner.undo("odd")
    assert undone.counts() == {"failed": 1}
    assert "has no bytes for it" in undone.outcomes[0].detail
    assert not undone.ok


def test_undo_of_an_undo_an_unknown_run_and_another_registrys_run_is_refused(shop, tmp_path):
    image(shop.store, APP, "old", "old")
    run = shop.execute(shop.plan("old"))
    undone = shop.cleaner.undo(run)
    with pytest.raises(JournalError, match="only a deletion"):
        shop.cleaner.undo(undone)
    with pytest.raises(JournalError, match="no run"):
        shop.cleaner.undo("20200101T000000-abcdef")
    with Registry("127.0.0.1:1") as elsewhere, pytest.raises(JournalError, match="only a deletion at"):
        Cleaner(elsewhere, journal=shop.journal).undo(run)


def test_undo_stops_when_told_and_when_interrupted_and_can_be_repeated(shop):
    for name in ("a", "b", "c"):
        image(shop.store, APP, name, name)
    run = shop.execute(shop.plan("a", "b", "c"))
    stop = threading.Event()
    assert shop.cleaner.undo(run, stop=stop, progress=lambda _: stop.set()).stopped

    def interrupt(_):
        raise KeyboardInterrupt

    interrupted = shop.cleaner.undo(run, progress=interrupt)
    assert interrupted.stopped
    assert interrupted.counts() == {"already_there": 1}
    assert shop.cleaner.undo(run).counts() == {"already_there": 1, "restored": 2}
    assert set(shop.store.tags(APP)) == {"a", "b", "c", "keep"}


def test_a_deletion_outside_a_plan_says_no_as_an_error(tmp_path):
    with opened(tmp_path, deletion=False) as shop, pytest.raises(Refused):
        shop.registry.repository(APP).delete_manifest(shop.keep)


def test_a_cleaner_closes_the_journal_that_it_opened_and_no_other(shop, tmp_path):
    with Cleaner(shop.registry, journal=tmp_path / "own.sqlite") as own:
        assert own.journal.verify() == 0
    with pytest.raises(JournalError):
        own.journal.verify()
    with Cleaner(shop.registry, journal=shop.journal):
        pass
    assert shop.journal.verify() == 0
