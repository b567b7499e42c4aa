"""A backup keeps whole images, and a restoration puts them back byte for byte, also after garbage collection."""

import json
import shutil
import subprocess
import threading
from collections import namedtuple

import pandas as pd
import pytest
from conftest import need
from images import Pushed

from regaudit.cleaner import backup as backups
from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.errors import UsageError
from regaudit.inventory.collect import collect
from regaudit.reference import Digest, attached_tag

pytestmark = pytest.mark.real
APP, WEB = "team/app", "team/web"


class Place:
    """A real registry with two repositories, a plan that empties them but for one image each, and a folder."""

    def __init__(self, server, door, cleaner, folder):
        self.server, self.door, self.cleaner, self.folder = server, door, cleaner, folder
        self.app, self.web = Pushed(door, APP), Pushed(door, WEB)
        self.children = [self.app.image(f"child-{n}") for n in range(2)]
        self.top = self.app.index("top", self.children, "1.0", "stable")
        self.app.image("sig", f"{attached_tag(Digest(self.top))}.sig")
        self.app.referrer("sbom", self.top)
        self.plain = self.app.image("plain", "0.9", layer=b"shared")
        self.web.image("other", "2.0", layer=b"shared")
        for place in (self.app, self.web):
            place.image("keep", "keep")
        self.before = self.state()
        self.made = plan(
            collect(door, progress=False), [f"{APP}:1.0", f"{APP}:stable", f"{APP}:0.9", f"{WEB}:2.0"]
        ).approve("Ada")

    def state(self):
        return self.app.tags(), self.web.tags()

    def collect_garbage(self):
        self.server.garbage_collect()
        self.server.restart()


@pytest.fixture
def place(docker_registry, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)
    with Registry(docker_registry.host) as door, Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        yield Place(docker_registry, door, cleaner, tmp_path / "backup")


def test_after_garbage_collection_a_backup_brings_everything_back_and_an_undo_could_not(place):
    run = place.cleaner.execute(place.made, backup=place.folder)
    assert run.ok, run.frame()
    place.collect_garbage()
    assert set(place.cleaner.undo(run).counts()) == {"blobs_gone"}
    restored = place.cleaner.restore(place.folder)
    assert set(restored.counts()) == {"restored", "already_there"}  # children come with their index
    assert place.state() == place.before
    with_blobs = [b for child in place.children for b in place.app.repository.manifest(child).blobs]
    assert all(place.app.repository.head_blob(blob.digest).size == blob.size for blob in with_blobs)
    assert set(place.cleaner.restore(place.folder).counts()) == {"already_there"}
    assert place.cleaner.run(restored.id).kind == "restore"
    place.cleaner.journal.verify()


def test_a_backup_is_a_layout_that_skopeo_reads(place, tmp_path):
    skopeo = need("skopeo", "an independent reader of layouts")
    place.cleaner.backup(place.made, place.folder)
    names = {m["annotations"]["org.opencontainers.image.ref.name"] for m in index_of(place.folder)}
    assert {f"{APP}:1.0", f"{APP}:stable", f"{APP}:0.9", f"{WEB}:2.0"} <= names
    source = f"oci:{place.folder}:{WEB}:2.0"
    read = subprocess.run([skopeo, "inspect", "--raw", source], capture_output=True, check=True)
    assert Digest.of(read.stdout) == place.before[1]["2.0"]


def index_of(folder):
    return json.loads((folder / "index.json").read_text())["manifests"]


@pytest.mark.parametrize("name", [WEB, f"{APP}:stable", "digest"])
def test_a_part_of_a_backup_comes_back(place, name):
    place.cleaner.execute(place.made, backup=place.folder)
    place.collect_garbage()
    run = place.cleaner.restore(place.folder, only=place.plain if name == "digest" else name)
    assert run.ok
    back = {tag for outcome in run.outcomes for tag in outcome.tags}
    assert back == {WEB: {"2.0"}, f"{APP}:stable": {"stable"}, "digest": {"0.9"}}[name]
    assert set(place.app.tags()) | set(place.web.tags()) == back | {"keep"}


def test_what_cannot_be_kept_whole_is_not_deleted_and_neither_is_what_needs_it(place):
    layer = place.app.repository.manifest(place.children[0]).layers[0].digest
    place.app.repository.delete_blob(layer, force=True)
    run = place.cleaner.execute(place.made, backup=place.folder)
    words = {outcome.digest: outcome for outcome in run.outcomes}
    assert words[place.top].outcome == "skipped"
    assert "not_backed_up" in words[place.top].detail
    assert words[place.children[0]].outcome == words[place.children[1]].outcome == "skipped"
    assert words[place.plain].outcome == "deleted"
    assert place.app.tags()["1.0"] == place.top
    kept = place.cleaner.backup(place.made, place.folder)
    assert not kept.ok
    assert str(layer)[:15] in kept.withheld()[f"{APP}@{place.top}"]
    assert len(kept.rows) == len(place.made.rows) == 8
    assert set(kept.withheld()) == {f"{APP}@{place.top}", f"{APP}@{place.children[0]}"}
    assert str(kept) == f"backup in {place.folder}: 4 of 8 digests are kept whole, 2 could not be kept whole"


def test_a_backup_says_what_it_had_not_begun_when_it_was_stopped_and_goes_on_without_what_is_gone(place):
    stop, heard = threading.Event(), []
    kept = place.cleaner.backup(place.made, place.folder, progress=lambda _: stop.set(), stop=stop)
    assert [row.whole for row in kept.rows] == [True] + [False] * 7
    assert {row.detail for row in kept.rows[1:]} == {"the backup was stopped before it"}
    assert not kept.ok
    assert len(kept.withheld()) == 7
    place.app.repository.delete_manifest(place.plain)
    kept = place.cleaner.backup(place.made, place.folder, progress=heard.append)
    (absent,) = (row for row in kept.rows if row.absent)
    assert (absent.digest, absent.tags, absent.whole) == (place.plain, ("0.9",), False)
    assert kept.ok
    assert kept.withheld() == {}
    assert {row.key for row in heard} == {row.key for row in kept.rows}
    assert str(kept) == f"backup in {place.folder}: 7 of 8 digests are kept whole"


def test_a_second_backup_fetches_only_what_is_missing_or_was_spoilt(place, monkeypatch):
    place.cleaner.backup(place.made, place.folder)
    blobs = [b.digest for b in place.app.repository.manifest(place.plain).blobs]
    path = place.folder / "blobs" / "sha256"
    (path / blobs[0].encoded).unlink()
    (path / blobs[1].encoded).write_bytes(b"SHARED")  # of the same size
    fetched = []
    fetch = backups.layouts.fetch_blob

    def watched(session, repository, layout, blob, progress):
        fetched.append(blob.digest)
        return fetch(session, repository, layout, blob, progress)

    monkeypatch.setattr(backups.layouts, "fetch_blob", watched)
    assert place.cleaner.backup(place.made, place.folder).ok
    assert sorted(fetched) == sorted(blobs)
    assert (path / blobs[1].encoded).read_bytes() == b"shared"


def test_where_the_disk_has_no_room_nothing_is_fetched_and_nothing_deleted(place, monkeypatch):
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 -- what shutil returns is one
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 50, 50))
    with pytest.raises(UsageError, match="larger disk"):
        place.cleaner.execute(place.made, backup=place.folder)
    assert place.state() == place.before
    assert index_of(place.folder) == []


def test_a_folder_that_is_something_else_is_refused_and_nothing_deleted(place):
    place.folder.mkdir()
    (place.folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError):
        place.cleaner.execute(place.made, backup=place.folder)
    with pytest.raises(UsageError, match="no OCI layout"):
        place.cleaner.restore(place.folder)
    assert place.state() == place.before


def test_a_restoration_leaves_a_tag_that_moved_unless_told(place):
    place.cleaner.execute(place.made, backup=place.folder)
    newer = place.app.image("newer", "0.9")
    assert place.cleaner.restore(place.folder, only=f"{APP}:0.9").counts() == {"tag_moved": 1}
    assert place.app.tags()["0.9"] == newer
    assert place.cleaner.restore(place.folder, only=f"{APP}:0.9", overwrite=True).ok
    assert place.app.tags()["0.9"] == place.plain


def test_an_image_of_which_the_folder_lost_a_blob_is_not_sent_by_halves(place):
    place.cleaner.execute(place.made, backup=place.folder)
    place.collect_garbage()
    layer = json.loads((place.folder / "blobs/sha256" / Digest(place.plain).encoded).read_text())["config"]["digest"]
    (place.folder / "blobs/sha256" / Digest(layer).encoded).unlink()
    run = place.cleaner.restore(place.folder, only=f"{APP}:0.9")
    assert run.counts() == {"blobs_gone": 1}
    assert "0.9" not in place.app.tags()


def test_a_name_that_the_backup_does_not_have_is_refused(place):
    place.cleaner.backup(place.made, place.folder)
    with pytest.raises(UsageError, match="it has"):
        place.cleaner.restore(place.folder, only="team/nosuch")


def test_a_referrer_that_went_alone_comes_back_onto_its_subjects_list(place):
    first, second = (place.app.referrer(name, place.plain) for name in ("one", "two"))
    rows = pd.DataFrame({"repository": [APP], "digest": [first]})
    made = plan(collect(place.door, progress=False), rows).approve("Ada")
    assert place.cleaner.execute(made, backup=place.folder).counts() == {"deleted": 1, "rewritten": 1}
    place.collect_garbage()
    assert place.cleaner.restore(place.folder).ok
    assert {d.digest for d in place.app.repository.referrers(place.plain)} == {first, second}
