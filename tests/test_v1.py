"""The v1 interface: every endpoint, the grants that lead to them, and what must not be believed or given away."""

from __future__ import annotations

import base64
import hashlib
import io
import json

import pytest
from hostile import Cut, Hostile, redirect, reply

from regaudit.client import v1
from regaudit.client.registry import Registry
from regaudit.errors import (
    AccessDenied,
    AuthenticationFailed,
    BadResponse,
    DigestMismatch,
    InvalidReference,
    NotARegistry,
    NotFound,
    PaginationLoop,
    RedirectRefused,
    TruncatedResponse,
    UnexpectedStatus,
    Unsupported,
    UsageError,
)
from regaudit.sandbox.server import Sandbox
from regaudit.sandbox.v1 import OptionsV1

APP = "team/app"
BASE, TOP = "b" * 64, "a" * 64
ABOUT = json.dumps({"id": TOP, "parent": BASE, "created": "2015-03-04T05:06:07.123456789Z", "Size": 5}).encode()
TOKEN = f'signature=0123456789abcdef,repository="{APP}",access=read'
IMAGES = f"GET /v1/repositories/{APP}/images"
TAGS = f"GET /v1/repositories/{APP}/tags"
JSON_OF_TOP = f"GET /v1/images/{TOP}/json"
LAYER = f"GET /v1/images/{TOP}/layer"


def granted(**headers):
    """Return the list of images with the grant that comes with it."""
    fields = {"X-Docker-Token": TOKEN} | {name.replace("_", "-"): value for name, value in headers.items()}
    return reply(json=[{"id": TOP}], headers=fields)


def fill(store, *, name=APP):
    """Put an image of two layers into a store, and return the ids of both."""
    base = store.put_image(name, b"base layer", created="2014-01-01T00:00:00Z")
    top = store.put_image(name, b"top layer", parent=base, created="2015-03-04T05:06:07.123456789Z")
    store.set_tag(name, "latest", top)
    return base, top


@pytest.fixture(params=["token", "cookie", "none"])
def old(request):
    """Give a v1-only registry with an image, for each kind of grant."""
    with Sandbox(v1=OptionsV1(only=True, session=request.param)) as server:
        fill(server.v1)
        yield server


@pytest.fixture
def door(hostile):
    """Give the v1 door to a server that says what its script says."""
    hostile.on(IMAGES, granted())
    with Registry(hostile.host, tries=2) as registry:
        yield registry.v1.repository(APP)


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# -- every endpoint --------------------------------------------------------------------------


def test_everything_that_can_be_read_is_read(old, tmp_path):
    with Registry(old.host) as registry:
        assert registry.v1.ping().to_dict()["body"] == "true"
        assert [hit.name for hit in registry.v1.search("app").hits] == [APP]
        repository = registry.v1.repository(APP)
        top = repository.image_id("latest")
        image = repository.image(top)
        base = image.parent
        assert {listed.id for listed in repository.images()} == {top, base}
        assert repository.tags() == {"latest": top}
        assert repository.ancestry(top) == (top, base)
        assert image.created.isoformat() == "2015-03-04T05:06:07.123456+00:00"
        assert (image.size_bytes, image.layer_bytes) == (9, 9)
        assert image.to_dict()["created"] == "2015-03-04T05:06:07.123456789Z"
        layer = repository.download_layer(top, tmp_path / "layer")
        assert layer.to_dict() == {"image_id": top, "size_bytes": 9, "verified_by": "checksum"}
        assert (tmp_path / "layer").read_bytes() == b"top layer"


def test_a_repository_without_a_namespace_is_one_of_the_library():
    with Sandbox(v1="only") as old, Registry(old.host) as registry:
        fill(old.v1, name="library/busybox")
        repository = registry.v1.repository("busybox")
        assert (repository.name, set(repository.tags())) == ("library/busybox", {"latest"})


def test_the_list_of_images_is_asked_for_once_whatever_is_read_after_it(old):
    with Registry(old.host) as registry:
        repository = registry.v1.repository(APP)
        repository.tags()
        repository.image(repository.image_id("latest"))
    assert sum(path.endswith("/images") for _, path, _ in old.requests) == 1


def test_an_expired_grant_is_renewed(hostile, door):
    again = TOKEN.replace("0123", "4567")
    hostile.on(IMAGES, granted(), granted(X_Docker_Token=again))
    hostile.on(TAGS, reply(json={"a": TOP}), reply(401), reply(json={"b": TOP}))
    assert [door.tags(), door.tags()] == [{"a": TOP}, {"b": TOP}]
    assert [seen.header("authorization") for seen in hostile.seen(TAGS)] == [
        f"Token {t}" for t in (TOKEN, TOKEN, again)
    ]


def test_a_grant_that_is_refused_at_once_is_not_asked_for_again(hostile, door):
    hostile.on(TAGS, reply(401))
    with pytest.raises(AccessDenied):
        door.tags()
    assert [seen.path for seen in hostile.requests] == [f"/v1/repositories/{APP}/{part}" for part in ("images", "tags")]


def test_a_token_that_repeats_its_scheme_is_sent_with_one(hostile, door):
    """docker-registry 0.9 sends "Token signature=…" where the protocol has the part behind it."""
    hostile.on(IMAGES, granted(X_Docker_Token=f"Token {TOKEN}"))
    hostile.on(TAGS, reply(json={}))
    assert door.tags() == {}
    assert hostile.seen(TAGS)[0].header("authorization") == f"Token {TOKEN}"


def test_the_answers_of_docker_hub_are_understood(hostile, door):
    hostile.on(TAGS, reply(json=[{"layer": "deadbeef", "name": "latest"}]))
    assert door.tags() == {"latest": "deadbeef"}


def test_a_search_goes_over_all_pages_and_asks_for_the_term_as_it_was_typed():
    with Sandbox(v1=OptionsV1(only=True, page=2)) as old, Registry(old.host) as registry:
        names = [f"team/app-{number}" for number in range(5)]
        for name in names:
            fill(old.v1, name=name)
        found = registry.v1.search("app-")
        assert ([hit.name for hit in found.hits], found.pages, found.num_results) == (names, 3, 5)
        assert found.to_dict()["results"][0] == {"name": "team/app-0", "description": ""}
        assert registry.v1.search("a b&c").to_dict()["query"] == "a b&c"


def test_a_search_without_pages_is_complete(hostile):
    """docker-registry 0.9 sends neither num_pages nor page."""
    hit = {"name": APP, "description": None, "star_count": 3}
    hostile.on("GET /v1/search", reply(json={"query": "", "num_results": 1, "results": [hit]}))
    with Registry(hostile.host) as registry:
        (found,) = registry.v1.search("").hits
    assert (found.name, found.description, found.to_dict()) == (APP, "", hit)


def test_pages_that_repeat_themselves_are_an_error(hostile):
    page = {"num_results": 99, "num_pages": 3, "results": [{"name": APP}]}
    hostile.on("GET /v1/search", reply(json=page))
    with Registry(hostile.host) as registry, pytest.raises(PaginationLoop):
        registry.v1.search("")
    assert len(hostile.requests) == 2


# -- who asks --------------------------------------------------------------------------------


def test_a_login_asks_and_makes_no_account():
    with Sandbox(v1="only", users={"ada": "s3cret"}) as old:
        with Registry(old.host, username="ada", password="s3cret") as registry:
            assert registry.v1.login().to_dict() == {"status": "Login Succeeded"}
        with Registry(old.host, username="ada", password="wrong") as registry, pytest.raises(AuthenticationFailed):
            registry.v1.login()
        with Registry(old.host) as registry, pytest.raises(UsageError, match="give username= and password="):
            registry.v1.login()
        assert {method for method, _, _ in old.requests} == {"GET"}


def test_a_repository_with_a_login_is_read_and_without_one_says_what_to_give():
    with Sandbox(v1="only", users={"ada": "s3cret"}) as old:
        fill(old.v1)
        with Registry(old.host, username="ada", password="s3cret") as registry:
            assert set(registry.v1.repository(APP).tags()) == {"latest"}
        with Registry(old.host) as registry, pytest.raises(AccessDenied, match="give username= and password="):
            registry.v1.repository(APP).tags()
        with Registry(old.host, username="ada", password="no") as registry, pytest.raises(AuthenticationFailed):
            registry.v1.repository(APP).tags()


def test_a_registry_behind_a_gate_that_wants_the_password_gets_it_everywhere(hostile):
    """Nginx in front of docker-registry 0.9, which issues tokens that nobody checks."""
    word = basic("ada", "s3cret")

    def gate(then):
        asks = reply(401, headers={"WWW-Authenticate": 'Basic realm="gate"'})
        return lambda seen: then if seen.header("authorization") == word else asks

    hostile.on(IMAGES, gate(granted()))
    hostile.on(TAGS, gate(reply(json={"a": TOP})))
    with Registry(hostile.host, username="ada", password="s3cret") as registry:
        assert registry.v1.repository(APP).tags() == {"a": TOP}


def test_a_password_does_not_leave_over_plain_http():
    registry = Registry("http://registry.invalid", username="ada", password="s3cret")
    with registry, pytest.raises(AccessDenied, match="plain http"):
        registry.v1.repository(APP).tags()


# -- where it goes ---------------------------------------------------------------------------


def test_an_endpoint_on_another_host_is_refused_and_hears_nothing(hostile, door, decoy):
    hostile.on(IMAGES, granted(X_Docker_Endpoints=decoy.host, Set_Cookie="session=1"))
    with pytest.raises(RedirectRefused, match=f"trusted_endpoints=\\['{decoy.host}'\\]"):
        door.tags()
    assert decoy.heard == b""


def test_a_trusted_endpoint_gets_the_token_and_neither_password_nor_cookie(hostile):
    with Hostile() as endpoint:
        hostile.on(IMAGES, granted(X_Docker_Endpoints=f"other.invalid, {endpoint.host}", Set_Cookie="session=c00kie"))
        endpoint.on(TAGS, reply(json={"a": TOP}))
        options = {"username": "ada", "password": "s3cret", "trusted_endpoints": [endpoint.host]}
        with Registry(hostile.host, **options) as registry:
            assert registry.v1.repository(APP).tags() == {"a": TOP}
        (seen,) = endpoint.requests
    assert hostile.requests[0].header("authorization") == basic("ada", "s3cret")
    assert seen.header("authorization") == f"Token {TOKEN}"
    assert seen.header("cookie") is None


def test_a_trusted_endpoint_that_asks_for_the_password_does_not_get_it(hostile):
    with Hostile() as endpoint:
        hostile.on(IMAGES, granted(X_Docker_Endpoints=endpoint.host))
        endpoint.on("*", reply(401, headers={"WWW-Authenticate": 'Basic realm="give"'}))
        options = {"username": "ada", "password": "s3cret", "trusted_endpoints": ["127.0.0.1"]}
        with Registry(hostile.host, **options) as registry, pytest.raises(AccessDenied):
            registry.v1.repository(APP).tags()
        assert {seen.header("authorization") for seen in endpoint.requests} == {f"Token {TOKEN}"}


def test_an_endpoint_that_is_the_registry_itself_is_taken(hostile, door):
    hostile.on(IMAGES, granted(X_Docker_Endpoints=hostile.host))
    hostile.on(TAGS, reply(json={"a": TOP}))
    assert door.tags() == {"a": TOP}


@pytest.mark.parametrize("endpoint", ["https://a.example", "u:p@a.example", "a.example/v1", "a b"])
def test_an_endpoint_that_is_none_is_an_error(hostile, door, endpoint):
    hostile.on(IMAGES, granted(X_Docker_Endpoints=endpoint))
    with pytest.raises(BadResponse, match="names the endpoint"):
        door.tags()


def test_a_redirected_layer_is_fetched_without_token_and_cookie(hostile, door, tmp_path):
    hostile.on(IMAGES, granted(Set_Cookie="session=c00kie; Path=/; HttpOnly"))
    hostile.on(JSON_OF_TOP, reply(body=ABOUT))
    with Hostile() as storage:
        hostile.on(LAYER, redirect(f"{storage.url}/bucket/layer?X-Amz-Signature=1"))
        storage.on("GET /bucket/layer", reply(body=b"bytes"))
        assert door.download_layer(TOP, tmp_path / "layer").verified_by == "transfer"
        (seen,) = storage.requests
    assert hostile.seen(LAYER)[0].header("cookie") == "session=c00kie"
    assert (seen.header("authorization"), seen.header("cookie")) == (None, None)


def test_a_list_of_images_from_elsewhere_brings_no_grant(hostile, door):
    with Hostile() as other:
        hostile.on(IMAGES, redirect(f"{other.url}/v1/repositories/{APP}/images"))
        other.on(IMAGES, granted(Set_Cookie="session=theirs"))
        hostile.on(TAGS, reply(json={"a": TOP}))
        assert door.tags() == {"a": TOP}
    (seen,) = hostile.seen(TAGS)
    assert (seen.header("authorization"), seen.header("cookie")) == (None, None)


@pytest.mark.parametrize("kind", ["token", "cookie"])
def test_no_secret_shows_in_what_is_printed_or_logged(kind, caplog):
    caplog.set_level(1, "regaudit")
    with Sandbox(v1=OptionsV1(only=True, session=kind), users={"ada": "s3cret"}) as old:
        fill(old.v1)
        with Registry(old.host, username="ada", password="s3cret") as registry:
            pong = registry.v1.ping()
            registry.v1.repository(APP).tags()
            session = registry.v1.session
    (grant,) = session.grants.values()
    secret = grant.cookies["session"] if kind == "cookie" else grant.token[10:42]
    shown = [repr(session), repr(grant), repr(registry.v1), str(pong.to_dict()), repr(pong)]
    logged = [str(vars(record)) + record.getMessage() for record in caplog.records]
    assert len(logged) > 5
    for hidden in ("s3cret", basic("ada", "s3cret")[6:], secret):
        assert not [text for text in (*shown, *logged) if hidden in text]


def test_a_cookie_that_the_endpoint_changes_is_sent_changed(hostile, door):
    hostile.on(IMAGES, granted(Set_Cookie="session=one; Path=/; Secure"))
    hostile.on(
        TAGS, reply(json={}, headers=[("Set-Cookie", "session=two"), ("Set-Cookie", "odd"), ("Set-Cookie", "b=3")])
    )
    door.tags()
    door.tags()
    assert [seen.header("cookie") for seen in hostile.seen(TAGS)] == ["session=one", "session=two; b=3"]


def test_an_unusable_token_is_never_put_into_a_header(hostile, door):
    hostile.on(IMAGES, granted(X_Docker_Token="signature=\x01"))
    with pytest.raises(BadResponse, match="no usable token"):
        door.tags()


# -- what must not be believed ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "ask", "said", "kind"),
    [
        (IMAGES, "images", reply(json={"id": TOP}), BadResponse),
        (IMAGES, "images", reply(json=[{"id": "../../etc"}]), BadResponse),
        (IMAGES, "images", reply(json=["x"]), BadResponse),
        (IMAGES, "images", reply(body=b"<html>portal</html>"), BadResponse),
        (IMAGES, "images", reply(body=b""), TruncatedResponse),
        (IMAGES, "images", reply(404, b"<html>gone</html>"), NotFound),
        (IMAGES, "images", reply(500), UnexpectedStatus),
        (TAGS, "tags", reply(json=None), BadResponse),
        (TAGS, "tags", reply(json={"latest": "../x"}), BadResponse),
        (TAGS, "tags", reply(json={"-bad": TOP}), BadResponse),
        (TAGS, "tags", reply(body=b'{"a": "x", "a": "y"}'), BadResponse),
        (TAGS, "tags", reply(json=[{"layer": TOP}]), BadResponse),
        (TAGS, "tags", Cut(reply(json={"a": TOP}), 60), TruncatedResponse),
    ],
)
def test_a_listing_that_cannot_be_believed_is_an_error(hostile, door, route, ask, said, kind):
    hostile.on(route, said)
    with pytest.raises(kind):
        getattr(door, ask)()


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ("ancestry", reply(json=[])),
        ("ancestry", reply(json=[BASE, TOP])),
        ("ancestry", reply(json=[TOP, BASE, TOP])),
        ("ancestry", reply(json=[TOP, 7])),
        ("ancestry", reply(json={"id": TOP})),
        ("ancestry", reply(json=[TOP, *(f"{n:064x}" for n in range(1100))])),
        ("json", reply(json={"id": BASE})),
        ("json", reply(json={"parent": BASE})),
        ("json", reply(json={"id": TOP, "parent": "a/b"})),
        ("json", reply(json=[])),
        ("json", reply(body=b"{" * 9000)),
    ],
)
def test_what_is_said_of_an_image_must_be_of_that_image(hostile, door, piece, said):
    hostile.on(f"GET /v1/images/{TOP}/{piece}", said)
    with pytest.raises(BadResponse):
        (door.ancestry if piece == "ancestry" else door.image)(TOP)


@pytest.mark.parametrize("said", [reply(json=7), reply(json="a/b"), reply(body=b"plain"), reply(json={"id": TOP})])
def test_the_image_of_a_tag_is_an_id(hostile, door, said):
    hostile.on(f"{TAGS}/latest", said)
    with pytest.raises(BadResponse):
        door.image_id("latest")


@pytest.mark.parametrize(
    ("size", "header", "known"),
    [
        (5, "7", (5, 7)),
        (-1, "-1", (None, None)),
        (True, "9" * 30, (None, None)),
        ("5", "", (None, None)),
        (0, "0", (0, 0)),
    ],
)
def test_a_size_that_is_none_is_not_known(hostile, door, size, header, known):
    hostile.on(JSON_OF_TOP, reply(json={"id": TOP, "Size": size}, headers={"X-Docker-Size": header}))
    image = door.image(TOP)
    assert (image.size_bytes, image.layer_bytes) == known


def test_nothing_is_asked_with_a_name_that_is_none(hostile, door):
    for ask in (door.ancestry, door.image, lambda name: door.download_layer(name, io.BytesIO()), door.image_id):
        with pytest.raises(InvalidReference):
            ask("../x")
    assert hostile.requests == []


def test_the_error_of_a_registry_is_told_in_its_words():
    with Sandbox(v1="only") as old, Registry(old.host) as registry:
        fill(old.v1)
        with pytest.raises(NotFound, match=r"tags/no: not found \(Tag not found\)$"):
            registry.v1.repository(APP).image_id("no")


# -- layers ----------------------------------------------------------------------------------


def layer(hostile, body=b"bytes", *, raw=None, layer_headers=(), **headers):
    hostile.on(JSON_OF_TOP, reply(body=ABOUT, headers={name.replace("_", "-"): text for name, text in headers.items()}))
    hostile.on(LAYER, *([raw] if raw else []), reply(body=body, headers=dict(layer_headers)))


def sum_of(*parts):
    return "sha256:" + hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("checksum", [sum_of(ABOUT, b"\n", b"bytes"), sum_of(b"bytes")])
@pytest.mark.parametrize("name", ["X_Docker_Checksum_Payload", "X_Docker_Payload_Checksum", "X_Docker_Checksum"])
def test_a_layer_is_verified_by_its_checksum_wherever_the_registry_tells_it(hostile, door, checksum, name):
    layer(hostile, **{name: f"['{checksum}', 'tarsum+sha256:{'0' * 64}']"})
    target = io.BytesIO()
    assert door.download_layer(TOP, target).verified_by == "checksum"
    assert target.getvalue() == b"bytes"


def test_the_checksum_beside_the_layer_itself_counts_too(hostile, door, tmp_path):
    layer(hostile, layer_headers={"X-Docker-Checksum-Payload": sum_of(b"other")})
    with pytest.raises(DigestMismatch):
        door.download_layer(TOP, tmp_path / "layer")
    assert list(tmp_path.glob("*layer*")) == []


def test_without_a_checksum_at_least_the_size_must_be_right(hostile, door):
    layer(hostile, X_Docker_Size="5", X_Docker_Checksum=f"tarsum+sha256:{'0' * 64}")
    assert door.download_layer(TOP, io.BytesIO()).verified_by == "size"
    layer(hostile, X_Docker_Size="6")
    with pytest.raises(BadResponse, match="5 bytes arrived"):
        door.download_layer(TOP, io.BytesIO())


def test_a_layer_that_breaks_off_is_read_again_and_written_once(hostile, door):
    whole = reply(body=b"0123456789")
    layer(hostile, b"0123456789", raw=Cut(whole, len(whole) - 4), X_Docker_Payload_Checksum=sum_of(b"0123456789"))
    target = io.BytesIO()
    assert door.download_layer(TOP, target).to_dict()["verified_by"] == "checksum"
    assert target.getvalue() == b"0123456789"
    assert [seen.header("range") for seen in hostile.seen(LAYER)] == [None, None]


def test_a_layer_that_is_cut_short_for_good_is_no_layer(hostile, door, tmp_path):
    whole = reply(body=b"0123456789")
    hostile.on(JSON_OF_TOP, reply(body=ABOUT))
    hostile.on(LAYER, Cut(whole, len(whole) - 4))
    with pytest.raises(TruncatedResponse):
        door.download_layer(TOP, tmp_path / "layer")
    assert list(tmp_path.glob("*layer*")) == []


# -- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("users", [None, {"ada": "s3cret"}])
@pytest.mark.parametrize("kind", ["token", "cookie", "none"])
def test_an_image_is_pushed_tagged_moved_and_deleted(users, kind, tmp_path):
    login = {"username": "ada", "password": "s3cret"} if users else {}
    with Sandbox(v1=OptionsV1(only=True, session=kind), users=users) as old, Registry(old.host, **login) as registry:
        repository = registry.v1.repository("fresh")
        (tmp_path / "layer").write_bytes(b"from a file")
        base = json.dumps({"id": BASE, "Size": 5}).encode()
        repository.upload_layer(BASE, b"bytes", about=base)
        repository.upload_layer(TOP, tmp_path / "layer", about=ABOUT)
        repository.put_tag("v1", TOP)
        repository.put_tag("v2", BASE)
        assert repository.tags() == {"v1": TOP, "v2": BASE}
        assert repository.ancestry(TOP) == (TOP, BASE)
        assert repository.download_layer(TOP, io.BytesIO()).verified_by == "checksum"
        repository.delete_tag("v1")
        assert repository.tags() == {"v2": BASE}
        repository.delete()
        with pytest.raises(NotFound):
            repository.tags()
        with pytest.raises(NotFound):
            repository.delete()


def test_a_layer_alone_needs_its_image_json_in_the_registry(old):
    with Registry(old.host) as registry, pytest.raises(NotFound, match="Image not found"):
        registry.v1.repository(APP).upload_layer(TOP, b"bytes")


def test_an_image_that_is_there_already_is_not_stored_over(old):
    with Registry(old.host) as registry:
        repository = registry.v1.repository(APP)
        top = repository.image_id("latest")
        about = json.dumps({"id": top}).encode()
        with pytest.raises(UnexpectedStatus, match="already exists"):
            repository.upload_layer(top, b"other bytes", about=about)


def test_deleting_what_is_not_there_makes_no_repository(old):
    with Registry(old.host) as registry, pytest.raises(NotFound):
        registry.v1.repository("no/such").delete_tag("latest")
    assert {method for method, _, _ in old.requests} == {"GET"}


def test_a_write_that_is_redirected_is_refused(hostile, door, decoy):
    hostile.on(f"DELETE /v1/repositories/{APP}/tags/latest", redirect(f"{decoy.url}/x", 307))
    with pytest.raises(RedirectRefused):
        door.delete_tag("latest")
    assert decoy.heard == b""


# -- which interface a host speaks -----------------------------------------------------------

PORTAL = reply(body=b"<!doctype html><title>Log in</title>", headers={"Content-Type": "text/html"})


def test_a_v2_registry_is_v2_and_v1_is_not_asked_for(sample_sandbox):
    with Registry(sample_sandbox.host) as registry:
        assert (registry.version, registry.version) == ("v2", "v2")
        assert registry.session.counts["ping"] == 1
        assert len(registry.catalog()) > 1


def test_a_host_that_speaks_both_is_v2():
    with Sandbox(sample=True, v1=True) as both, Registry(both.host) as registry:
        assert registry.version == "v2"
        assert registry.v1.ping().status == 200


@pytest.mark.parametrize("second", [reply(404), reply(404, b"<html>gone</html>"), PORTAL, reply(204), reply(410)])
@pytest.mark.parametrize(
    "first",
    [
        reply(json=True),
        reply(json={"standalone": True}),
        reply(body=b"", headers={"X-Docker-Registry-Version": "0.6.0"}),
        reply(body=b"OK", headers={"X-Docker-Registry-Standalone": "True"}),
    ],
)
def test_a_host_that_has_no_v2_is_v1_where_it_answers_so(hostile, second, first):
    hostile.on("GET /v2/", second)
    hostile.on("GET /v1/_ping", first)
    with Registry(hostile.host) as registry:
        assert (registry.version, registry.version) == ("v1", "v1")
    assert len(hostile.requests) == 2


@pytest.mark.parametrize(
    ("second", "first", "told"),
    [
        (reply(404), reply(404), "GET /v2/ gave 404, and GET /v1/_ping gave 404: check host and port"),
        (reply(404), reply(body=b"hello"), "GET /v1/_ping gave 200 with something else"),
        (PORTAL, PORTAL, "GET /v2/ gave 200 with something else, and GET /v1/_ping gave 200 with something else"),
        (PORTAL, reply(405), "GET /v1/_ping gave 405"),
    ],
)
def test_a_host_that_speaks_neither_is_told_so_with_both_attempts(hostile, second, first, told):
    hostile.on("GET /v2/", second)
    hostile.on("GET /v1/_ping", first)
    with Registry(hostile.host) as registry, pytest.raises(NotARegistry) as caught:
        _ = registry.version
    assert told in str(caught.value)


def test_a_host_that_speaks_tls_says_so_and_v1_is_not_asked_for(hostile):
    hostile.on("GET /v2/", reply(400, b"Client sent an HTTP request to an HTTPS server.\n"))
    with Registry(hostile.host) as registry, pytest.raises(NotARegistry, match="write https://"):
        _ = registry.version
    assert len(hostile.requests) == 1


@pytest.mark.parametrize(("said", "kind"), [(reply(401), AccessDenied), (reply(500), UnexpectedStatus)])
def test_a_host_that_says_no_at_the_door_of_v1_is_believed(hostile, said, kind):
    hostile.on("GET /v2/", reply(404))
    hostile.on("GET /v1/_ping", said)
    with Registry(hostile.host) as registry, pytest.raises(kind):
        _ = registry.version


def test_a_v2_registry_that_is_down_or_refuses_the_login_is_not_taken_for_v1(hostile):
    hostile.on("GET /v1/_ping", reply(json=True))
    for said, kind in (
        (reply(503), UnexpectedStatus),
        (reply(401, headers={"WWW-Authenticate": "Basic"}), AuthenticationFailed),
    ):
        hostile.on("GET /v2/", said)
        with Registry(hostile.host, username="ada", password="no", busy_tries=1) as registry, pytest.raises(kind):
            _ = registry.version
    assert hostile.seen("GET /v1/_ping") == []


def test_what_only_v2_has_names_the_door_to_v1_once_the_version_is_known(old):
    with Registry(old.host) as registry:
        assert registry.version == "v1"
        assert not registry.supports_v2()
        with pytest.raises(Unsupported, match=r"use registry\.v1\.repository\('team/app'\)"):
            registry.repository(APP)
        with pytest.raises(Unsupported, match=r"use registry\.v1\.search"):
            registry.catalog()


def test_trusted_endpoints_are_several():
    with pytest.raises(UsageError, match="trusted_endpoints is one text"):
        Registry("registry.invalid", trusted_endpoints="other.invalid")


def test_an_image_id_has_a_grammar():
    assert v1.check_image_id(TOP) == TOP
    for odd in ("", "a/b", "a" * 129, "a b"):
        with pytest.raises(InvalidReference):
            v1.check_image_id(odd)
