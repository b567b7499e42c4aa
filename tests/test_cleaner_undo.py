"""A part of a deletion comes back with what it needs, and after garbage collection nothing comes back by halves."""

import json

import pytest
from images import Pushed

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.errors import NotFound, UsageError
from regaudit.inventory.collect import collect
from regaudit.reference import Digest, attached_tag

pytestmark = pytest.mark.real
APP, WEB = "team/app", "team/web"


class Deleted:
    """A real registry from which two repositories' images were deleted: an index with a signature, and plain ones."""

    def __init__(self, server, door, cleaner):
        self.server, self.door, self.cleaner = server, door, cleaner
        self.app, self.web = Pushed(door, APP), Pushed(door, WEB)
        self.children = [self.app.image(f"child-{n}") for n in range(2)]
        self.top = self.app.index("top", self.children, "1.0", "stable")
        self.signature = self.app.image("sig", f"{attached_tag(Digest(self.top))}.sig")
        self.sbom = self.app.referrer("sbom", self.top)
        self.plain = self.app.image("plain", "0.9")
        self.other = self.web.image("other", "2.0")
        for place in (self.app, self.web):
            place.image("keep", "keep")
        self.before = self.app.tags(), self.web.tags()
        self.made = self.plan(f"{APP}:1.0", f"{APP}:stable", f"{APP}:0.9", f"{WEB}:2.0")
        self.run = cleaner.execute(self.made)
        assert self.run.ok, self.run.frame()
        assert set(self.app.tags()) == set(self.web.tags()) == {"keep"}

    def plan(self, *names):
        return plan(collect(self.door, progress=False), list(names)).approve("Ada")

    def undo(self, *only, **options):
        return self.cleaner.undo(self.run, only=only, **options)

    def there(self, digest, place=None):
        try:
            (place or self.app).repository.manifest(digest)
        except NotFound:
            return False
        return True


@pytest.fixture
def deleted(docker_registry, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)
    with Registry(docker_registry.host) as door, Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        yield Deleted(docker_registry, door, cleaner)


def test_one_repository_comes_back_and_the_other_stays_away(deleted):
    assert set(deleted.undo(WEB).counts()) == {"restored"}
    assert deleted.web.tags() == deleted.before[1]
    assert set(deleted.app.tags()) == {"keep"}


def test_one_tag_comes_back_with_its_children_and_its_signatures_but_without_its_other_tags(deleted):
    run = deleted.undo(f"{APP}:1.0")
    assert run.ok
    assert deleted.app.tags()["1.0"] == deleted.top
    assert all(map(deleted.there, [*deleted.children, deleted.signature, deleted.sbom]))
    whole = set(deleted.before[0])
    assert set(deleted.app.tags()) == whole - {"stable", "0.9"}
    assert not deleted.there(deleted.plain)
    assert not deleted.there(deleted.other, deleted.web)
    assert [outcome.tags for outcome in run.outcomes if outcome.digest == deleted.top] == [("1.0",)]
    order = [outcome.digest for outcome in run.outcomes]
    assert max(map(order.index, deleted.children)) < order.index(deleted.top) < order.index(deleted.sbom)


@pytest.mark.parametrize("form", ["{}", f"{APP}@{{}}"])
def test_one_digest_comes_back_with_all_its_tags_and_what_it_needs(deleted, form):
    assert deleted.undo(form.format(deleted.plain)).counts() == {"restored": 1}
    assert deleted.app.tags()["0.9"] == deleted.plain
    assert not deleted.there(deleted.top)


def test_a_referrer_comes_back_after_its_subject_which_gets_no_tags(deleted):
    run = deleted.undo(deleted.sbom)
    assert run.ok
    order = [outcome.digest for outcome in run.outcomes]
    assert order.index(deleted.top) < order.index(deleted.sbom)
    assert all(map(deleted.there, [*deleted.children, deleted.top, deleted.sbom]))
    assert not {"1.0", "stable"} & set(deleted.app.tags())


def test_part_after_part_everything_is_back(deleted):
    deleted.undo(f"{APP}:stable")
    deleted.undo(WEB, f"{APP}:0.9")
    assert deleted.undo().ok
    assert (deleted.app.tags(), deleted.web.tags()) == deleted.before


@pytest.mark.parametrize("name", ["nosuch", f"{APP}:nosuch", f"{APP}:keep", "sha256:" + "0" * 64, f"{WEB}:1.0"])
def test_a_name_that_the_run_did_not_delete_is_refused_and_nothing_is_sent(deleted, name):
    with pytest.raises(UsageError, match=f"REPOSITORY:TAG.*; it deleted .*{APP}:0.9"):
        deleted.undo(name)
    assert set(deleted.app.tags()) == {"keep"}


def test_a_tag_that_moved_is_left_unless_told_and_the_other_parts_come_back(deleted):
    newer = deleted.app.image("newer", "0.9")
    run = deleted.undo(f"{APP}:0.9")
    assert run.counts() == {"tag_moved": 1}
    assert "--overwrite" in run.outcomes[0].detail
    assert deleted.app.tags()["0.9"] == newer
    assert deleted.undo(f"{APP}:0.9", overwrite=True).ok
    assert deleted.app.tags()["0.9"] == deleted.plain


def test_after_garbage_collection_it_lists_what_is_gone_and_puts_nothing_back_by_halves(deleted):
    deleted.server.garbage_collect()
    deleted.server.restart()
    run = deleted.undo()
    gone = {outcome.digest: outcome.detail for outcome in run.outcomes}
    assert set(run.counts()) == {"blobs_gone"}
    assert "of its 2 blobs" in gone[deleted.plain]
    assert "could not be put back" in gone[deleted.top]
    assert set(deleted.app.tags()) == set(deleted.web.tags()) == {"keep"}
    assert not deleted.there(deleted.top)


def test_an_index_whose_one_child_lost_its_blobs_is_not_put_back_without_it(deleted):
    deleted.app.image("child-0")  # its blobs are held by somebody, those of the other child by nobody
    deleted.server.garbage_collect()
    deleted.server.restart()
    run = deleted.undo(f"{APP}:1.0")
    words = {outcome.digest: outcome.outcome for outcome in run.outcomes}
    assert words[deleted.children[0]] == "already_there"
    assert words[deleted.children[1]] == words[deleted.top] == "blobs_gone"
    assert not deleted.there(deleted.top)
    assert "1.0" not in deleted.app.tags()


def test_a_child_that_another_run_deleted_comes_back_with_its_index(deleted):
    child = deleted.app.image("late-child", "late")
    top = deleted.app.index("late", [child], "late-index")
    first = deleted.cleaner.execute(deleted.plan(f"{APP}:late-index"))
    assert first.counts() == {"deleted": 1}
    second = deleted.cleaner.execute(deleted.plan(f"{APP}:late"))
    assert second.counts() == {"deleted": 1}
    undone = deleted.cleaner.undo(first, only=f"{APP}:late-index")
    assert [(o.digest, o.tags, o.outcome) for o in undone.outcomes] == [
        (child, (), "restored"),
        (top, ("late-index",), "restored"),
    ]
    assert deleted.app.tags()["late-index"] == top
    assert deleted.there(child)
    assert "late" not in deleted.app.tags()


# -- configs -----------------------------------------------------------------------------------


def test_a_config_that_is_gone_comes_back_from_the_journal_where_the_layers_are_there(deleted):
    raw = deleted.cleaner.journal.manifest(deleted.plain)[1]
    config = json.loads(raw)["config"]["digest"]
    assert Digest(config).matches(deleted.cleaner.journal.config(config))
    deleted.app.image("holds the layer", layer=b"plain")
    deleted.server.garbage_collect()
    deleted.server.restart()
    with pytest.raises(NotFound):
        deleted.app.repository.head_blob(config)
    assert deleted.undo(f"{APP}:0.9").counts() == {"restored": 1}
    assert deleted.app.tags()["0.9"] == deleted.plain
    assert deleted.app.repository.head_blob(config).size


def test_a_config_is_not_put_back_where_a_layer_is_gone(deleted):
    config = json.loads(deleted.cleaner.journal.manifest(deleted.plain)[1])["config"]["digest"]
    deleted.server.garbage_collect()
    deleted.server.restart()
    assert deleted.undo(deleted.plain).counts() == {"blobs_gone": 1}
    with pytest.raises(NotFound):
        deleted.app.repository.head_blob(config)


@pytest.mark.parametrize(("broken", "noted"), [("missing", "could not be read"), ("large", "not kept")])
def test_a_config_that_is_missing_or_large_is_noted_and_no_obstacle(deleted, monkeypatch, broken, noted):
    digest = deleted.app.image("odd", "odd")
    made = deleted.plan(f"{APP}:odd")
    if broken == "missing":
        deleted.app.repository.delete_blob(deleted.app.repository.manifest(digest).config.digest, force=True)
    else:
        monkeypatch.setattr(execution, "_LARGEST_CONFIG", 10)
    run = deleted.cleaner.execute(made)
    assert run.counts() == {"deleted": 1}
    intent = deleted.cleaner.journal.last(run.id, f"{APP}@{digest}", "intent")
    assert noted in intent.data["config_note"]
    assert intent.data["config"] is None
    deleted.cleaner.journal.verify()
