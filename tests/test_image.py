"""One image as a snapshot knows it: the claims of `regaudit.inventory.image`."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from builders import Build, blob, days_before

from regaudit.analysis.footprint import reclaimable_bytes
from regaudit.errors import InvalidReference, UsageError
from regaudit.inventory.collect import collect
from regaudit.inventory.documents import Document, Documents
from regaudit.inventory.snapshot import Snapshot

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;\u202e"


class Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def audited(sample_sandbox):
    from regaudit.client.registry import Registry

    with Registry(sample_sandbox.host) as registry:
        return collect(registry, progress=False)


def test_a_tag_and_its_digest_and_the_name_with_the_registry_are_the_same_image(audited):
    by_tag = audited.image("shop/checkout/worker:latest")
    by_digest = audited.image(f"shop/checkout/worker@{by_tag.digest}")
    full = audited.image(f"{audited.registry}/shop/checkout/worker:latest")
    assert by_tag.digest == by_digest.digest == full.digest
    assert by_tag.name.endswith("worker:latest")
    assert by_digest.name.endswith(f"@{by_tag.digest}")
    assert by_tag.tags == ("1", "1.2", "1.2.1", "latest")


def test_an_index_shows_its_platforms_and_what_refers_to_it(audited):
    details = audited.image("shop/checkout/api:1.4.2")
    assert details.facts["kind"] == "index"
    assert details.platforms["platform"].tolist()[:2] == ["linux/amd64", "linux/arm64/v8"]
    assert details.platforms["role"].tolist() == ["image", "image", "attestation", "attestation"]
    assert details.platforms["read"].all()
    assert sorted(details.referrers["via"]) == ["subject", "tag"]
    assert details.missing == ()


def test_each_layer_stands_beside_its_line_of_history_and_says_who_else_holds_it(audited):
    child = audited.image("shop/checkout/api:1.4.2").platforms["digest"].iloc[0]
    details = audited.image(f"shop/checkout/api@{child}")
    assert details.layers["created_by"].iloc[-1] == "COPY . /srv # buildkit"
    assert details.layers["manifest_count"].iloc[0] > details.layers["manifest_count"].iloc[-1] == 1
    assert details.layers["repository_count"].iloc[0] > 1
    assert details.history["empty_layer"].tolist() == [False] * 5 + [True]
    assert details.settings["Cmd"] == ["serve"]
    assert details.labels["org.opencontainers.image.vendor"] == "Example Ltd"
    assert details.indexes == (audited.image("shop/checkout/api:1.4.2").digest,)
    assert "created, by its config" in details.timeline["event"].tolist()


def test_what_it_alone_holds_is_what_would_come_back_with_its_children(audited):
    details = audited.image("tools/ci/builder:2026.1")
    inner = audited.children[audited.children["index_digest"] == details.digest]["digest"].astype(str).tolist()
    deeper = audited.children[audited.children["index_digest"].isin(inner)]["digest"].astype(str).tolist()
    family = [("tools/ci/builder", digest) for digest in (details.digest, *inner, *deeper)]
    assert details.unique_bytes == reclaimable_bytes(audited, family)


def test_a_copy_in_another_repository_leaves_it_nothing_of_its_own():
    build = Build().image("a", tags=["1"], layers={"x": 500}).copy("a", "1", to="b", tags=["1"])
    assert build.snapshot().image("a:1").unique_bytes == 0


def test_where_a_size_is_not_known_neither_is_what_it_alone_holds():
    assert Build().image("a", tags=["1"], layers={"x": None}).snapshot().image("a:1").unique_bytes is None


def test_without_documents_it_says_what_is_not_known():
    snapshot = Build().image("a", tags=["1"], labels={"k": "v"}).snapshot()
    bare = Snapshot(**{**{f: getattr(snapshot, f) for f in snapshot.__dataclass_fields__}, "documents": Documents()})
    details = bare.image("a:1")
    assert details.labels == {"k": "v"}
    assert details.history.empty
    assert len(details.layers) == 1
    assert "history and settings are not known" in " ".join(details.missing)


@pytest.mark.parametrize(
    "raw", [b"{not json", b"[]", b'{"config": [], "history": {}, "author": 5}', b'{"history": [5, {}]}']
)
def test_a_config_that_is_nonsense_is_survived(raw):
    snapshot = Build().image("a", tags=["1"]).snapshot()
    config = snapshot.manifests["config_digest"].iloc[0]
    documents = Documents({**snapshot.documents, config: Document("application/json", raw)})
    odd = Snapshot(**{**{f: getattr(snapshot, f) for f in snapshot.__dataclass_fields__}, "documents": documents})
    details = odd.image("a:1")
    assert details.layers["created_by"].isna().all()
    assert str(details)
    assert details._repr_html_()


def test_a_history_that_does_not_fit_the_layers_is_put_beside_none_of_them():
    snapshot = Build().image("a", tags=["1"], layers={"x": 1, "y": 2}).snapshot()
    config = snapshot.manifests["config_digest"].iloc[0]
    raw = json.dumps({"history": [{"created_by": "RUN one"}]}).encode()
    documents = Documents({**snapshot.documents, config: Document("application/json", raw)})
    odd = Snapshot(**{**{f: getattr(snapshot, f) for f in snapshot.__dataclass_fields__}, "documents": documents})
    assert odd.image("a:1").layers["created_by"].isna().all()


def test_a_tag_without_a_manifest_and_one_of_the_v1_interface_are_shown_as_far_as_they_are_known():
    snapshot = Build().dangling("a", "gone").v1("b", "1", image_id="c" * 64, created="2020-01-01").snapshot()
    gone, old = snapshot.image("a:gone"), snapshot.image("b:1")
    assert gone.digest is None
    assert "Its manifest was not read" in gone.missing[0]
    assert old.facts["image_id"] == "c" * 64
    assert "created, by its v1" in old.timeline["event"].tolist()
    assert "image id" in str(old)


def test_a_platform_that_is_missing_is_shown_as_not_read():
    build = Build().index("a", tags=["m"], platforms={"linux/amd64": {"x": 1}}, missing=["linux/arm64"])
    platforms = build.snapshot().image("a:m").platforms.set_index("platform")
    assert platforms["read"].to_dict() == {"linux/amd64": True, "linux/arm64": False}


def test_in_a_repository_that_was_not_fully_read_it_says_that_more_may_refer_to_it():
    details = Build().image("a", tags=["1"]).unread("a", "slow").snapshot().image("a:1")
    assert "may be missing here" in details.missing[-1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a:2", "has no tag '2'; its newest are 1"),
        ("b:1", "the snapshot does not have"),
        ("empty:1", "holds no tag"),
        ("a", "write repository:tag"),
        ("host:5000/a", "write repository:tag"),
        (f"a@{blob('nothing')}", "has no manifest"),
        (":1", "write repository:tag"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_there_is(name, says):
    snapshot = Build().image("a", tags=["1"]).repository("empty").snapshot()
    with pytest.raises(UsageError, match=says):
        snapshot.image(name)


def test_a_digest_that_is_none_is_refused():
    with pytest.raises(InvalidReference):
        Build().image("a", tags=["1"]).snapshot().image("a@sha256:abc")


def test_hostile_texts_stay_text_in_every_display():
    build = Build(EVIL).image(
        "a", tags=["1"], labels={EVIL: EVIL}, annotations={EVIL: EVIL}, created=days_before(3), artifact_type=EVIL
    )
    build.attach("a", "1", name="s", tags=[EVIL], artifact_type=EVIL)
    snapshot = build.tag("a", "1", f"x{EVIL}").snapshot()
    config = snapshot.manifests.set_index("digest").loc[build.digest("a", "1"), "config_digest"]
    raw = json.dumps(
        {"author": EVIL, "config": {"Cmd": [EVIL], "Env": [EVIL]}, "history": [{"created_by": EVIL, "comment": EVIL}]}
    )
    documents = Documents({**snapshot.documents, config: Document("application/json", raw.encode())})
    evil = Snapshot(**{**{f: getattr(snapshot, f) for f in snapshot.__dataclass_fields__}, "documents": documents})
    details = evil.image("a:1")
    assert details.author == EVIL
    page = Page(details._repr_html_())
    assert page.tags <= {"table", "tbody", "thead", "tr", "th", "td", "details", "summary", "p", "div"}
    assert page.attributes <= {"scope", "style", "class"}
    for text in (details._repr_html_(), str(details), repr(details)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert json.loads(json.dumps(details.to_dict()))["author"] == EVIL


def test_everything_is_there_as_plain_values(audited):
    plain = json.loads(json.dumps(audited.image("shop/checkout/api:1.4.2").to_dict()))
    assert plain["platforms"][0]["platform"] == "linux/amd64"
    assert plain["facts"]["created"].endswith("Z")
