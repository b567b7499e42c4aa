"""A registry that lies, met where a user meets it: an audit, a plan, an execution. What it says is checked, bounded and shown as text.

What each endpoint makes of each lie is in test_v2, test_exchange and test_auth; here the whole way is gone.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zlib

import pytest
import requests
from docker_registry import DockerRegistry
from hostile import Decoy, Hostile, error, reply
from images import LAYER, Pushed, dump
from proxy import FaultProxy

from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.errors import RegistryError
from regaudit.inventory.blob_check import missing_blobs
from regaudit.inventory.collect import collect
from regaudit.log import BODIES
from regaudit.manifest import OCI_INDEX, OCI_MANIFEST
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox

APP = "team/app"
TAGS = f"GET /v2/{APP}/tags/list"
# A config of this type is not fetched: a test of listings has only these to script.
NO_CONFIG = {"mediaType": "application/vnd.example+json", "digest": "sha256:" + "0" * 64, "size": 2}
IMAGE = dump({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": NO_CONFIG, "layers": []})
DIGEST = "Docker-Content-Digest"


def manifest(raw=IMAGE, media_type=OCI_MANIFEST, **headers):
    announced = {"Content-Type": media_type, DIGEST: str(Digest.of(raw)), **headers}
    return reply(200, raw, headers=announced)


def page(*tags, link=None, name=APP):
    return reply(json={"name": name, "tags": list(tags)}, headers={} if link is None else {"Link": link})


def audit(server, *patterns, **options):
    with Registry(server.host, tries=1, **options) as door:
        return collect(door, *(patterns or (APP,)), progress=False, cache=None)


def answering(hostile, **scripts):
    """Script a registry of one repository: everything that is not in `scripts` is an image, without referrers."""
    hostile.on("GET /v2/", reply(json={}))
    hostile.on("*", lambda seen: error(404, "NOT_FOUND") if "/referrers/" in seen.path else manifest())
    for what, entries in scripts.items():
        hostile.on({"tags": TAGS}.get(what, what), *(entries if isinstance(entries, list) else [entries]))


def nothing_can_go(snapshot):
    names = [f"{APP}:{tag}" for tag in snapshot.tags["tag"]]
    made = plan(snapshot, names, allow_empty=True)
    return made.rows == () and {row.refusal for row in made.refused} <= {"repository_not_read", "unread"}


# -- lists of names --------------------------------------------------------------------------

LISTS = {
    "a page that points at itself": (lambda _: page("a", link="<?n=1000>; rel=next"), ["a"], "pagination_loop"),
    "ever-new pages of the same names": (
        lambda seen: page("a", "b", link=f"<?last={len(seen.target)}{'x' * len(seen.target)}>; rel=next"),
        ["a", "b"],
        "pagination_loop",
    ),
    "a page on another host": (
        lambda _: page("a", link="<https://elsewhere.example/v2/x>; rel=next"),
        ["a"],
        "pagination_loop",
    ),
    "a page of another scheme": (
        lambda _: page("a", link="<ftp://127.0.0.1/v2/x>; rel=next"),
        ["a"],
        "pagination_loop",
    ),
    "the list of another repository": (lambda _: page("a", name="team/other"), [], "bad_response"),
    "html": (lambda _: reply(200, b"<html>welcome", headers={"Content-Type": "text/html"}), [], "bad_response"),
    "no list at all": (lambda _: reply(json={}), [], "not_a_registry"),
    "a name that is none": (lambda _: page("a", "../../etc", "<script>", "a\nb", "\u202egpj"), ["a"], "invalid_name"),
}


@pytest.mark.usefixtures("each_bulk")
@pytest.mark.parametrize("lie", LISTS)
def test_a_list_that_cannot_be_believed_leaves_its_names_and_lets_nothing_go(hostile, lie):
    script, kept, kind = LISTS[lie]
    answering(hostile, tags=script)
    found = audit(hostile)
    assert sorted(found.tags["tag"]) == kept
    assert set(found.problems["error"]) == {kind}
    assert found.unread == {APP}
    assert nothing_can_go(found)
    assert len(hostile.seen(TAGS)) <= 4
    assert not [seen for seen in hostile.requests if "script" in seen.target or ".." in seen.target]


@pytest.mark.usefixtures("each_bulk")
def test_a_page_on_another_port_of_this_machine_is_not_asked_for(hostile, decoy):
    answering(hostile, tags=page("a", link=f"<{decoy.url}/v2/{APP}/tags/list?last=a>; rel=next"))
    found = audit(hostile, username="alice", password="canary")
    assert found.unread == {APP}
    assert decoy.heard == b""


# -- manifests -------------------------------------------------------------------------------

INDEX = dump(
    {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": str(Digest.of(IMAGE)), "size": len(IMAGE)}],
    }
)
SUBSTITUTES = {
    "the child under the digest of the index": reply(
        200, IMAGE, headers={"Content-Type": OCI_MANIFEST, DIGEST: str(Digest.of(INDEX))}
    ),
    "the child under the media type of the index": manifest(IMAGE, OCI_INDEX),
    "the index under the media type of the child": manifest(INDEX, OCI_MANIFEST),
    "both kinds in one document": manifest(dump(json.loads(IMAGE) | {"manifests": json.loads(INDEX)["manifests"]})),
    "other bytes": reply(200, IMAGE + b" ", headers={"Content-Type": OCI_MANIFEST, DIGEST: str(Digest.of(IMAGE))}),
    "a digest of an unknown kind": reply(200, IMAGE, headers={"Content-Type": OCI_MANIFEST, DIGEST: "crc32:0a0b0c0d"}),
    "a size below nothing": manifest(IMAGE.replace(b'"size": 2', b'"size": -2')),
    "a size beyond 63 bits": manifest(IMAGE.replace(b'"size": 2', b'"size": 9223372036854775808')),
    "a key that stands twice": manifest(IMAGE.replace(b'"layers": []', b'"layers": [], "layers": []')),
    "brackets to any depth": manifest(IMAGE.replace(b'"layers": []', b'"layers": ' + b"[" * 100_000 + b"]" * 100_000)),
    "a number of 5,000 digits": manifest(IMAGE.replace(b'"size": 2', b'"size": ' + b"9" * 5000)),
    "UTF-16": manifest(IMAGE.decode().encode("utf-16")),
    "a body beyond the cap": manifest(IMAGE + b" " * (8 << 20)),
    "a bomb": reply(
        200,
        gzip.compress(bytes(64 << 20), 9),
        headers={"Content-Type": OCI_MANIFEST, "Content-Encoding": "gzip"},
    ),
    "150 headers": manifest(**{f"X-{number}": "x" for number in range(150)}),
}


@pytest.mark.usefixtures("each_bulk")
@pytest.mark.parametrize("lie", SUBSTITUTES)
@pytest.mark.parametrize("warm", [False, True], ids=["first audit", "second audit"])
def test_a_manifest_that_cannot_be_believed_is_neither_cached_nor_planned(hostile, tmp_path, lie, warm):
    """In the second audit a HEAD tells of a digest that the registry does not stand by."""
    answering(hostile, tags=page("good", "lie"))
    hostile.on(f"GET /v2/{APP}/manifests/lie", SUBSTITUTES[lie])
    head = manifest(INDEX, OCI_INDEX).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    hostile.on(f"HEAD /v2/{APP}/manifests/lie", head)
    hostile.on(f"GET /v2/{APP}/manifests/{Digest.of(INDEX)}", SUBSTITUTES[lie])
    with Registry(hostile.host, tries=1) as door:
        for _ in range(1 + warm):
            found = collect(door, APP, progress=False, cache=tmp_path / "cache")
            row = found.tags.set_index("tag").loc["lie"]
            assert row.isna()["digest"]
            assert found.unread == {APP}
            assert nothing_can_go(found)


@pytest.mark.usefixtures("each_bulk")
@pytest.mark.parametrize(("children", "asked"), [(0, 0), (1000, 1000), (10_001, 0)])
def test_an_index_is_followed_as_far_as_its_bounds_and_no_further(hostile, children, asked):
    """Children that are not there: a thousand requests for a thousand, and none for more than anybody has."""
    entries = [{"mediaType": OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 5} for number in range(children)]
    wide = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    answering(hostile, tags=page("wide"))
    hostile.on(f"GET /v2/{APP}/manifests/wide", manifest(wide, OCI_INDEX))
    for entry in entries:
        hostile.on(f"GET /v2/{APP}/manifests/{entry['digest']}", error(404, "MANIFEST_UNKNOWN"))
    found = audit(hostile)
    assert sum("/manifests/sha256:" in seen.path for seen in hostile.requests) == asked
    assert len(found.problems) == (asked or bool(children))
    assert found.unread == ({APP} if children > 10_000 else set())


@pytest.mark.usefixtures("each_bulk")
def test_indexes_within_indexes_are_followed_to_ten_thousand_manifests_in_all(hostile):
    """An index of an index of ten and one more index, which alone would not be too wide."""

    def listing(entries, *nested):
        held = [{"mediaType": OCI_INDEX, "digest": str(Digest.of(raw)), "size": len(raw)} for raw in nested]
        return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": held + entries})

    entries = [{"mediaType": OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 5} for number in range(10_000)]
    last = listing(entries[10:])
    middle = listing(entries[:10], last)
    answering(hostile, tags=page("nested"))
    hostile.on(f"GET /v2/{APP}/manifests/nested", manifest(listing([], middle), OCI_INDEX))
    for raw in (middle, last):
        hostile.on(f"GET /v2/{APP}/manifests/{Digest.of(raw)}", manifest(raw, OCI_INDEX))
    for entry in entries[:10]:
        hostile.on(f"GET /v2/{APP}/manifests/{entry['digest']}", error(404, "MANIFEST_UNKNOWN"))
    found = audit(hostile)
    assert sum("/manifests/sha256:" in seen.path for seen in hostile.requests) == 2 + 10
    assert set(found.problems["error"]) == {"missing_child", "too_deep"}
    assert found.unread == {APP}


@pytest.mark.usefixtures("each_bulk")
def test_indexes_that_name_each_other_cannot_be_and_are_not_followed_in_a_circle(hostile):
    """Whoever lists a digest cannot know the hash of what lists it: a circle needs a lie, and that is the end of it."""
    second = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    entry = {"mediaType": OCI_INDEX, "digest": str(Digest.of(second)), "size": len(second)}
    first = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    answering(hostile, tags=page("circle"))
    hostile.on(f"GET /v2/{APP}/manifests/circle", manifest(first, OCI_INDEX))
    hostile.on(f"GET /v2/{APP}/manifests/{Digest.of(second)}", manifest(first, OCI_INDEX))
    found = audit(hostile)
    assert found.problems["error"].tolist() == ["digest_mismatch"]
    assert sum("/manifests/" in seen.path for seen in hostile.requests) == 2
    assert nothing_can_go(found)


@pytest.mark.usefixtures("each_bulk")
def test_sizes_add_up_beyond_sixty_three_bits(hostile):
    entries = [{"mediaType": LAYER, "digest": f"sha256:{n:064x}", "size": 2**62} for n in range(1, 10)]
    answering(hostile, tags=page("vast"))
    hostile.on(f"GET /v2/{APP}/manifests/vast", manifest(dump(json.loads(IMAGE) | {"layers": entries})))
    found = audit(hostile)
    assert found.stored_bytes() > 9 * 2**62
    assert found.tags["content_bytes"].isna().all(), "more than a column of 64 bits can say is not known"
    assert "EiB" in str(found) or "PiB" in str(found)


@pytest.mark.usefixtures("each_bulk")
def test_layers_that_a_manifest_says_are_elsewhere_are_shown_and_never_fetched(hostile, decoy, tmp_path):
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    far = {"mediaType": kind, "digest": "sha256:" + "1" * 64, "size": 5, "urls": [f"{decoy.url}/layer"]}
    answering(hostile, tags=page("windows"))
    hostile.on(f"GET /v2/{APP}/manifests/windows", manifest(dump(json.loads(IMAGE) | {"layers": [far]})))
    blob = f"/v2/{APP}/blobs/{NO_CONFIG['digest']}"
    hostile.on(f"HEAD {blob}", reply(200, b"{}", headers={}).partition(b"{}")[0])
    with Registry(hostile.host, tries=1) as door:
        found = collect(door, APP, progress=False, cache=None)
        assert far["digest"] in set(found.blobs["digest"])
        assert far["digest"] in json.dumps(found.image(f"{APP}:windows").to_dict(), default=str)
        missing_blobs(door, found)
        with pytest.raises(RegistryError):  # its config is not there
            door.repository(APP).download_image("windows", tmp_path / "layout")
    assert decoy.heard == b""
    assert not [seen for seen in hostile.requests if far["digest"] in seen.path]


# -- what it says beside the answer ----------------------------------------------------------

EVIL = "\x1b]0;gone\x07 <script>alert(1)</script> \u202e http://bob:hunter2@h/ Bearer abcdefghijkl"


@pytest.mark.usefixtures("each_bulk")
def test_a_warning_header_has_no_effect_and_reaches_nobody_as_it_is(hostile, caplog):
    """Fifty of a kilobyte: nothing reads it, and the log shows it clean and short."""
    hostile_text = ("299 - \x1b[31m" + "x" * 1000).encode().decode("latin-1")
    headers = [("Content-Type", OCI_MANIFEST), *[("Warning", hostile_text)] * 50]
    answering(hostile, tags=page("a"))
    plain = audit(hostile)
    hostile.on(f"GET /v2/{APP}/manifests/a", reply(200, IMAGE, headers=headers))
    with caplog.at_level(BODIES, logger="regaudit"):
        warned = audit(hostile)
    assert warned.complete
    assert warned.tags["digest"].tolist() == plain.tags["digest"].tolist()
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "\x1b" not in logged
    assert "x" * 600 not in logged


@pytest.mark.usefixtures("each_bulk")
@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"errors": [{"code": "<b>", "message": EVIL, "detail": EVIL}]}).encode(),
        EVIL.encode(),
        b"<html><script>alert(1)</script>" + b"x" * 10_000_000,
        b"[" * 100_000,
        b"\xff\xfe" + EVIL.encode("utf-16"),
    ],
    ids=["json", "text", "html", "brackets", "utf-16"],
)
def test_what_an_error_says_is_short_clean_and_without_secrets_wherever_it_is_shown(hostile, body):
    answering(hostile, tags=reply(500, body))
    found = audit(hostile)
    (message,) = found.problems["message"]
    assert len(message) <= 2048
    html = found._repr_html_()
    for shown in (message, html, str(found), found.problems.to_csv()):
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
        assert "hunter2" not in shown
        assert "abcdefghijkl" not in shown
    assert "<script" not in html


# -- a registry that turns into something else -----------------------------------------------

BECOMES = {
    "a captive portal": lambda seen, pass_on: reply(
        200, b"<html>sign in</html>", headers={"Content-Type": "text/html"}
    ),
    "a wall of logins": lambda seen, pass_on: reply(401, b"", headers={"WWW-Authenticate": 'Basic realm="x"'}),
    "a v1 registry": lambda seen, pass_on: reply(404, b"", headers={"X-Docker-Registry-Version": "0.9.1"}),
    "an empty one": lambda seen, pass_on: error(404, "NAME_UNKNOWN"),
    "a proxy error": lambda seen, pass_on: reply(502, b"<html>bad gateway"),
}


@pytest.mark.usefixtures("each_driver")
@pytest.mark.parametrize("what", BECOMES)
def test_a_registry_that_has_become_something_else_gets_no_deletion_of_the_plan(tmp_path, what):
    with Sandbox() as sandbox, FaultProxy(sandbox.host) as front, Registry(front.host, tries=1) as door:
        for name in ("old", "new"):
            Pushed(door, APP).image(name, name)
        made = plan(collect(door, progress=False, cache=None), [f"{APP}:old"]).approve("Ada")
        front.rule = BECOMES[what]
        with Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
            run = cleaner.execute(made)
            assert not set(run.counts()) & {"deleted", "deleted_unconfirmed"}
            assert what == "an empty one" or not run.ok
        sent = {seen.path.rpartition("/")[2] for seen in front.requests if seen.method == "DELETE"}
        assert not sent & {row.digest for row in made.rows}
        assert set(sandbox.store.tags(APP)) == {"old", "new"}


# -- bounds ----------------------------------------------------------------------------------

READ = """
import sys
from pathlib import Path
from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10

host, driver, *tags = sys.argv[1:]
with Registry(host, tries=1, driver=driver) as door:
    collect(door, "team/warm", progress=False, cache=None)
    before = peak()
    for tag in tags:
        assert collect(door, f"team/{tag}", progress=False, cache=None).unread, tag
        print(tag, peak() - before)
"""


def squeezed(size):
    squeezer = zlib.compressobj(9, wbits=31)
    return b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + squeezer.flush()


def test_no_reply_takes_more_than_64_mebibytes_of_memory(hostile):
    """A bomb of 200 MiB and one inside another, a page without end, errors of 64 MiB, brackets, in a process of its own."""
    bomb = squeezed(200 << 20)
    typed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    replies = {
        "bomb": reply(200, bomb, headers=typed),
        "twice": reply(200, gzip.compress(bomb), headers={**typed, "Content-Encoding": "gzip, gzip"}),
        "long": reply(200, b'{"tags":["' + b"x" * (64 << 20) + b'"]}'),
        "lying": reply(200, b"{" + b" " * (64 << 20), length=10**9),
        "error": reply(500, b"x" * (64 << 20)),
        "brackets": reply(200, b"[" * (4 << 20)),
        "chunk": reply(200, headers={"Transfer-Encoding": "chunked"}, length=None) + b"0" * (64 << 20),
        "names": reply(200, json.dumps({"name": "team/names", "tags": [5] * 1_000_000}).encode()),
    }
    hostile.on("GET /v2/", reply(json={}))
    hostile.on("GET /v2/team/warm/tags/list", reply(json={"name": "team/warm", "tags": []}))
    for name, raw in replies.items():
        hostile.on(f"GET /v2/team/{name}/tags/list", raw)
    for driver in ("libcurl", "threads"):
        command = [sys.executable, "-c", READ, hostile.host, driver, *replies]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
        grown = {name: int(mebibytes) for name, mebibytes in map(str.split, printed.splitlines())}
        assert set(grown) == set(replies)
        print(driver, grown)  # noqa: T201 -- for who asks with -s
        assert max(grown.values()) <= 64, (driver, grown)


# -- the real one beside the fakes -----------------------------------------------------------


def exchange(door, method, path, **options):
    """Return what a client goes by: status, digest, media type, error codes."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(method, f"{door}{path}", timeout=10, **options)
    try:
        codes = [entry["code"] for entry in answer.json()["errors"]]
    except (ValueError, KeyError, TypeError):
        codes = []
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    return answer.status_code, answer.headers.get(DIGEST), media_type, codes


ABSENT = "sha256:" + "0" * 64
GOLDEN = [
    ("GET", "/v2/"),
    ("GET", f"/v2/{APP}/tags/list"),
    ("GET", "/v2/no/such/tags/list"),
    ("GET", "/v2/_catalog"),
    ("GET", f"/v2/{APP}/manifests/v1"),
    ("HEAD", f"/v2/{APP}/manifests/v1"),
    ("GET", f"/v2/{APP}/manifests/none"),
    ("HEAD", f"/v2/{APP}/manifests/none"),
    ("GET", f"/v2/{APP}/manifests/{ABSENT}"),
    ("GET", f"/v2/{APP}/blobs/{ABSENT}"),
    ("HEAD", f"/v2/{APP}/blobs/{ABSENT}"),
    ("DELETE", f"/v2/{APP}/manifests/{ABSENT}"),
]


@pytest.mark.real
@pytest.mark.parametrize("deletion", [True, False])
def test_the_sandbox_answers_as_docker_registry_does(docker_registry_program, tmp_path, deletion):
    """The same status, digest, type and code for the same request: what is shown on the fake holds for the real one."""
    accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
    with (
        DockerRegistry(tmp_path, deletion=deletion) as real,
        Sandbox(deletion=deletion, referrers=False) as fake,
    ):
        for host in (real.host, fake.host):
            with Registry(host) as door:
                Pushed(door, APP).image("v1", "v1")
        for method, path in GOLDEN:
            assert exchange(fake.url, method, path, headers=accept) == exchange(
                real.url, method, path, headers=accept
            ), (method, path)


def test_decoys_hear_what_is_said_to_them():
    """A test that a decoy heard nothing is worth something only if it would have heard."""
    with Decoy() as decoy, Hostile() as server:
        server.on("*", reply(json={}))
        with Registry(decoy.host, tries=1) as door:
            door.ping()
        assert decoy.heard.startswith(b"GET /v2/ HTTP/1.1")
