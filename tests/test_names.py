"""Names as the node client docker-registry-client parses them: its functions, fields and errors."""

import pytest

import regaudit as ra
from regaudit.errors import InvalidReference

DIGEST = "sha256:" + "fb9f" * 16
HUB = {"name": "docker.io", "official": True}


def fields(index, remote, local, canonical, **rest):
    return {
        "index": index,
        "official": index["official"],
        "remoteName": remote,
        "localName": local,
        "canonicalName": canonical,
        **rest,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mongo", fields(HUB, "library/mongo", "mongo", "docker.io/mongo")),
        ("docker.io/mongo", fields(HUB, "library/mongo", "mongo", "docker.io/mongo")),
        ("docker.io/library/mongo", fields(HUB, "library/mongo", "mongo", "docker.io/mongo")),
        ("index.docker.io/trentm/foo", fields(HUB, "trentm/foo", "trentm/foo", "docker.io/trentm/foo")),
        (
            "quay.io/trentm/foo",
            fields({"name": "quay.io", "official": False}, "trentm/foo", "quay.io/trentm/foo", "quay.io/trentm/foo"),
        ),
        (
            "https://quay.io/trentm/foo",
            fields(
                {"name": "quay.io", "official": False, "scheme": "https"},
                "trentm/foo",
                "quay.io/trentm/foo",
                "quay.io/trentm/foo",
            ),
        ),
        (
            "localhost/blarg",
            fields({"name": "localhost", "official": False}, "blarg", "localhost/blarg", "localhost/blarg"),
        ),
    ],
)
def test_a_repository_has_the_fields_of_the_node_client(text, expected):
    assert ra.parse_repo(text).to_dict() == expected


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("mongo", {"tag": "latest"}),
        ("mongo:2.6", {"tag": "2.6"}),
        (f"alpine@{DIGEST}", {"digest": DIGEST}),
        (f"alpine:3@{DIGEST}", {"tag": "3", "digest": DIGEST}),
        ("https://quay.io/trentm/foo", {"tag": "latest"}),
        ("myreg.example.com:5000/busybox:foo", {"tag": "foo"}),
    ],
)
def test_a_reference_adds_tag_and_digest_and_latest_only_where_there_is_neither(text, rest):
    found = ra.parse_repo_and_ref(text).to_dict()
    assert {name: value for name, value in found.items() if name in {"tag", "digest"}} == rest
    assert ra.parse_repo_and_tag(text).to_dict() == found


@pytest.mark.parametrize("default", ["quay.io", ra.parse_index("quay.io")])
def test_a_default_index_is_taken_by_position_as_text_or_parsed(default):
    assert ra.parse_repo("foo", default).to_dict()["canonicalName"] == "quay.io/foo"
    assert ra.parse_repo_and_ref("docker.io/foo:1", default).to_dict()["canonicalName"] == "docker.io/foo"


def test_a_private_default_index_implies_no_library():
    assert ra.parse_repo("foo", "quay.io").to_dict()["remoteName"] == "foo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, HUB),
        ("docker.io", HUB),
        ("docker.io/", HUB),
        ("https://index.docker.io/v1/", {**HUB, "scheme": "https"}),
        ("quay.io", {"name": "quay.io", "official": False}),
        ("http://localhost:5000", {"name": "localhost:5000", "official": False, "scheme": "http"}),
    ],
)
def test_an_index_has_the_fields_of_the_node_client(text, expected):
    assert ra.parse_index(text).to_dict() == expected


@pytest.mark.parametrize("text", ["", "ftp://a.com", "https://", "a.com/more", "http://docker.io", "-bad-", "a b"])
def test_what_is_no_index_is_refused(text):
    with pytest.raises(InvalidReference):
        ra.parse_index(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quay.io/",
        "UPPER",
        "a/b/../c",
        "x/y",
        "a--b/c",
        "-a/b",
        "a-/b",
        "team/app:1",
        f"team/app@{DIGEST}",
        "ns/na me",
    ],
)
def test_what_is_no_repository_is_refused(text):
    with pytest.raises(InvalidReference):
        ra.parse_repo(text)
