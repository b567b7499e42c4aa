"""Blobs on their way down and up: whatever breaks off is gone on with, and nothing is believed before it is whole."""

from __future__ import annotations

import io
import os
import re
import threading

import pytest
from hostile import Cut, Hostile, error, redirect, reply

from regaudit.client.registry import Registry
from regaudit.client.transfer import Download
from regaudit.errors import (
    BadResponse,
    DigestMismatch,
    NotFound,
    RedirectRefused,
    TooLarge,
    TruncatedResponse,
    UnexpectedStatus,
    Unreachable,
    UsageError,
)
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox

BLOB = bytes(range(256)) * 400
DIGEST = Digest.of(BLOB)
PATH = f"/v2/team/app/blobs/{DIGEST}"
UPLOADS = "/v2/team/app/blobs/uploads/"
SESSION = f"{UPLOADS}s1"

pytestmark = pytest.mark.usefixtures("each_driver")


class Storage:
    """Serves one blob, in parts where it is asked for them, and breaks off as it is told."""

    def __init__(self, blob=BLOB, cuts=(), *, ranges=True):
        self.blob, self.cuts, self.ranges, self.asked = blob, list(cuts), ranges, []

    def __call__(self, seen):
        asked = seen.header("range")
        self.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        part = self.blob[start:]
        headers = {"Content-Range": f"bytes {start}-{len(self.blob) - 1}/{len(self.blob)}"} if start else {}
        raw = reply(206 if start else 200, part, headers=headers)
        return Cut(raw, len(raw) - len(part) + self.cuts.pop(0)) if self.cuts else raw


class Pipe:
    """Takes bytes once and in order, as a pipe does."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


@pytest.fixture
def quick(monkeypatch):
    """Let nobody wait between attempts."""
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)


@pytest.fixture
def app(hostile, quick):
    """Give ``team/app`` of a hostile server, asked three times without a pause."""
    with Registry(hostile.host, tries=3, deadline=5.0) as registry:
        yield registry.repository("team/app")


# -- down ------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hostile, app):
    storage = Storage(cuts=[100, 50_000])
    hostile.on(f"GET {PATH}", storage)
    pipe, seen = Pipe(), []
    assert app.download_blob(DIGEST, pipe, progress=lambda done, total: seen.append((done, total))) == len(BLOB)
    assert pipe.data == BLOB
    assert storage.asked == [None, "bytes=100-", "bytes=50100-"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(BLOB), len(BLOB))


def test_a_registry_that_ignores_ranges_sends_all_again_and_the_beginning_is_passed_over(hostile, app):
    storage = Storage(cuts=[70_000], ranges=False)
    hostile.on(f"GET {PATH}", storage)
    pipe = Pipe()
    app.download_blob(DIGEST, pipe)
    assert pipe.data == BLOB
    assert storage.asked == [None, "bytes=70000-"]


def test_a_download_that_never_moves_ends_after_its_tries(hostile, app, tmp_path):
    hostile.on(f"GET {PATH}", Cut(reply(200, BLOB), 20))
    with pytest.raises(TruncatedResponse, match="the connection ended before the answer did"):
        app.download_blob(DIGEST, tmp_path / "blob")
    assert len(hostile.requests) == 3


def test_a_download_that_is_cut_for_good_says_how_much_was_missing(hostile, tmp_path):
    raw = reply(200, BLOB)
    hostile.on(f"GET {PATH}", Cut(raw, len(raw) - 1500))
    with (
        Registry(hostile.host, tries=1) as registry,
        pytest.raises(TruncatedResponse, match=r"\(1,500 bytes were still"),
    ):
        registry.repository("team/app").download_blob(DIGEST, tmp_path / "blob")
    assert list(tmp_path.glob("*blob*")) == []


def test_a_large_download_may_break_off_often_as_long_as_it_moves(hostile, app):
    large = os.urandom(6 << 20)
    storage = Storage(large, cuts=[(1 << 20) + 1] * 5)
    hostile.on(f"GET /v2/team/app/blobs/{Digest.of(large)}", storage)
    pipe = Pipe()
    app.download_blob(Digest.of(large), pipe)
    assert pipe.data == large
    assert len(storage.asked) == 6


def part(start, end, total, data=None):
    headers = {"Content-Range": f"bytes {start}-{end}/{total}"}
    return reply(206, BLOB[start : end + 1] if data is None else data, headers=headers)


@pytest.mark.parametrize(
    ("again", "said"),
    [
        (part(101, len(BLOB) - 1, len(BLOB)), "another part of the blob"),
        (part(100, len(BLOB) - 1, len(BLOB) + 7), "where 102400 were declared"),
        (reply(206, BLOB[100:]), "which says not which part"),
        (reply(206, BLOB[100:], headers={"Content-Range": "pages 1-2/3"}), "which says not which part"),
        (reply(200, BLOB + b"x"), "has 102401 bytes"),
    ],
)
def test_a_rest_that_does_not_fit_is_refused_and_leaves_nothing(hostile, app, tmp_path, again, said):
    first = reply(200, BLOB)
    hostile.on(f"GET {PATH}", Cut(first, len(first) - len(BLOB) + 100), again)
    with pytest.raises(BadResponse, match=said):
        app.download_blob(DIGEST, tmp_path / "blob")
    assert list(tmp_path.glob("*blob*")) == []


def test_an_answer_that_is_only_a_part_is_followed_by_a_question_for_the_rest(hostile, app):
    last = len(BLOB) - 1
    hostile.on(f"GET {PATH}", part(0, 999, last + 1), part(1000, 1999, last + 1), part(2000, last, last + 1))
    pipe = Pipe()
    app.download_blob(DIGEST, pipe)
    assert pipe.data == BLOB


def test_a_registry_that_sends_a_part_and_then_nothing_is_not_asked_for_ever(hostile, app):
    nothing = reply(206, b"", headers={"Content-Range": f"bytes 1000-1000/{len(BLOB)}"})
    hostile.on(f"GET {PATH}", part(0, 999, len(BLOB)), nothing)
    with pytest.raises(TruncatedResponse, match="does not send the rest"):
        app.download_blob(DIGEST, Pipe())
    assert len(hostile.requests) == 2


def test_other_bytes_are_a_mismatch_also_when_they_came_in_parts(hostile, app, tmp_path):
    first = reply(200, BLOB)
    hostile.on(f"GET {PATH}", Cut(first, len(first) - 5), part(len(BLOB) - 5, len(BLOB) - 1, len(BLOB), b"wrong"))
    with pytest.raises(DigestMismatch):
        app.download_blob(DIGEST, tmp_path / "blob")
    assert list(tmp_path.glob("*blob*")) == []


def test_a_storage_address_that_has_expired_is_asked_for_anew(hostile, app):
    """Storage services sign an address for minutes; a slow download outlives it."""
    with Hostile() as cdn:
        storage = Storage(cuts=[60_000])
        hostile.on(f"GET {PATH}", redirect(f"{cdn.url}/one?sig=1"), redirect(f"{cdn.url}/two?sig=2"))
        cdn.on("GET /one", storage, error(403, "EXPIRED"))
        cdn.on("GET /two", storage)
        pipe = Pipe()
        app.download_blob(DIGEST, pipe)
        assert pipe.data == BLOB
        assert [seen.target for seen in cdn.requests] == ["/one?sig=1", "/one?sig=1", "/two?sig=2"]
        assert cdn.requests[-1].header("range") == "bytes=60000-"


def test_a_blob_larger_than_its_descriptor_says_is_not_written():
    pipe = Pipe()
    sink = Download(pipe, DIGEST, size=10)
    sink.begin(200, {})
    sink.write(BLOB[:10])
    with pytest.raises(TooLarge, match="more than the 10 bytes"):
        sink.write(b"x")
    assert pipe.data == BLOB[:10]


def test_every_response_on_the_way_to_a_blob_is_told_without_what_signs_it(hostile, app):
    with Hostile() as cdn:
        hostile.on(f"HEAD {PATH}", redirect(f"{cdn.url}/one?X-Signature=canary"))
        said = {"Set-Cookie": "session=canary", "Content-Location": "/one?Policy=canary"}
        cdn.on("HEAD /one", reply(200, b"", headers=said, length=len(BLOB)))
        head = app.head_blob(DIGEST)
    assert (head.size, [hop.status for hop in head.responses]) == (len(BLOB), [302, 200])
    assert "canary" not in str(head.to_dict())
    assert head.to_dict()["responses"][1]["url"] == f"{cdn.url}/one?X-Signature=***"


def test_a_redirect_is_an_error_where_it_was_not_to_be_followed(hostile, app):
    hostile.on("GET /v2/team/app/manifests/v1", redirect("/elsewhere"))
    with pytest.raises(RedirectRefused, match="redirects were not to be followed"):
        app.manifest("v1", follow_redirects=False)
    assert len(hostile.requests) == 1


# -- up --------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """Give an empty sandbox."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def mine(server, quick):
    """Give ``team/app`` of the sandbox."""
    with Registry(server.host) as registry:
        yield registry.repository("team/app")


def methods(server):
    return [method for method, path, _ in server.requests if "/blobs/" in path]


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 2500])
@pytest.mark.parametrize("how", [{}, {"chunk_bytes": 1000}, {"single_post": True}, {"algorithm": "sha512"}])
def test_each_form_of_upload_stores_the_same_blob(server, mine, size, how):
    data = BLOB[:size]
    seen = []
    digest = mine.upload_blob(data, progress=lambda done, total: seen.append((done, total)), **how)
    assert server.store.blob("team/app", digest) == data
    assert seen[-1:] == ([(size, size)] if size else [])


def test_what_can_be_read_only_once_is_sent_in_chunks(server, mine):
    reading, writing = os.pipe()
    threading.Thread(target=lambda: (os.write(writing, BLOB[:50_000]), os.close(writing))).start()
    with os.fdopen(reading, "rb") as stream:
        digest = mine.upload_blob(stream, chunk_bytes=20_000)
    assert server.store.blob("team/app", digest) == BLOB[:50_000]
    assert methods(server).count("PATCH") == 3


def test_an_open_file_is_sent_and_stays_open(server, mine):
    file = io.BytesIO(BLOB)
    assert server.store.blob("team/app", mine.upload_blob(file)) == BLOB
    assert not file.closed


@pytest.mark.parametrize("thing", ["text", io.StringIO("text"), 7])
def test_what_has_no_bytes_is_refused_before_anything_is_sent(server, mine, thing):
    with pytest.raises(UsageError, match="uploaded from bytes"):
        mine.upload_blob(thing)
    assert not server.requests


def test_a_blob_of_another_repository_is_mounted_and_not_sent(server, mine):
    digest = mine.registry.repository("team/base").upload_blob(BLOB)
    server.requests.clear()
    assert mine.upload_blob(BLOB, mount_from="team/base") == digest
    assert methods(server) == ["HEAD", "POST"]
    assert server.store.blob("team/app", digest) == BLOB


def test_a_blob_that_cannot_be_mounted_is_uploaded_in_the_session_opened_instead(server, mine):
    digest = mine.upload_blob(BLOB, mount_from="team/base")
    assert server.store.blob("team/app", digest) == BLOB
    assert methods(server) == ["HEAD", "POST", "PUT"]


def test_mounting_tells_whether_it_was_possible_and_leaves_no_session(server, mine):
    digest = mine.registry.repository("team/base").upload_blob(BLOB)
    assert mine.mount_blob(digest, "team/base")
    assert not mine.mount_blob(Digest.of(b"absent"), "team/base")
    assert methods(server)[-1] == "DELETE"


def test_an_upload_by_hand_goes_from_start_to_end(server, mine):
    upload = mine.start_upload()
    assert (upload.send(BLOB[:700]), upload.received) == (700, 700)
    assert upload.status() == 700
    assert upload.complete(DIGEST, BLOB[700:]) == DIGEST
    assert server.store.blob("team/app", DIGEST) == BLOB


def test_a_cancelled_upload_is_gone(mine):
    upload = mine.start_upload()
    upload.send(BLOB)
    upload.cancel()
    with pytest.raises(NotFound):
        upload.status()


def test_a_chunk_out_of_order_is_416_and_the_upload_goes_on(server, mine):
    upload, late = mine.start_upload(), mine.start_upload()
    late._upload = upload._upload
    upload.send(BLOB[:700])
    with pytest.raises(UnexpectedStatus) as caught:
        late.send(BLOB[700:])
    assert caught.value.status == 416
    assert late.status() == 700
    late.send(BLOB[700:])
    late.complete(DIGEST)
    assert server.store.blob("team/app", DIGEST) == BLOB


def test_wrong_bytes_are_refused_by_the_registry(mine):
    upload = mine.start_upload()
    with pytest.raises(UnexpectedStatus) as caught:
        upload.complete(DIGEST, b"other")
    assert caught.value.code == "DIGEST_INVALID"


# -- up, and broken --------------------------------------------------------------------------


class Store:
    """The receiving end of an upload, by script: keeps what arrives, and breaks off as it is told.

    `losses` says for each PATCH or PUT how many of its bytes are kept before the connection ends; None
    lets it end well, and so does the end of the list.
    """

    def __init__(self, server, losses=(), *, forgets=False):
        self.kept, self.blob, self.losses, self.forgets = b"", None, list(losses), forgets
        self.seen, self.open = [], False
        server.on(f"HEAD {PATH}", lambda _: reply(404) if self.blob is None else reply(200, b"", length=len(BLOB)))
        server.on(f"POST {UPLOADS}", self.start)
        server.on(f"GET {SESSION}", self.status)
        server.on(f"PATCH {SESSION}", self.take)
        server.on(f"PUT {SESSION}", self.take)

    def where(self, status):
        return reply(status, headers={"Location": SESSION, "Range": f"0-{max(len(self.kept) - 1, 0)}"})

    def start(self, _):
        self.kept, self.open = b"", True
        return self.where(202)

    def status(self, _):
        return self.where(204) if self.open else error(404, "BLOB_UPLOAD_UNKNOWN")

    def take(self, seen):
        self.seen.append((seen.method, seen.header("content-range"), len(seen.body)))
        loss = self.losses.pop(0) if self.losses else None
        if loss is not None:
            self.kept += seen.body[:loss]
            self.open = not self.forgets
            return Cut(b"", 0, reset=True)
        start = (seen.header("content-range") or f"{len(self.kept)}-").partition("-")[0]
        if int(start) != len(self.kept):
            return self.where(416)
        self.kept += seen.body
        if seen.method == "PATCH":
            return self.where(202)
        self.blob = self.kept
        return reply(201, headers={"Location": PATH, "Docker-Content-Digest": Digest.of(self.blob)})


@pytest.mark.parametrize("kept", [0, 2, 40_000])
def test_a_chunk_that_breaks_off_is_gone_on_with_where_the_registry_stands(hostile, app, kept):
    store = Store(hostile, losses=[None, kept])
    app.upload_blob(BLOB, chunk_bytes=50_000)
    assert store.blob == BLOB
    after = 50_000 + kept
    end = min(after + 50_000, len(BLOB))
    assert store.seen[2] == ("PATCH", f"{after}-{end - 1}", end - after)


def test_a_put_that_breaks_off_goes_on_as_a_chunk(hostile, app):
    store = Store(hostile, losses=[30_000])
    app.upload_blob(BLOB)
    assert store.blob == BLOB
    assert [method for method, *_ in store.seen] == ["PUT", "PATCH", "PUT"]
    assert store.seen[1] == ("PATCH", f"30000-{len(BLOB) - 1}", len(BLOB) - 30_000)


def test_an_upload_that_the_registry_has_forgotten_begins_anew(hostile, app):
    store = Store(hostile, losses=[None, 10], forgets=True)
    app.upload_blob(BLOB, chunk_bytes=60_000)
    assert store.blob == BLOB
    assert [seen.method for seen in hostile.requests].count("POST") == 2


def test_an_upload_whose_last_answer_was_lost_is_found_to_be_there(hostile, app):
    store = Store(hostile)

    def stored_and_silent(seen):
        store.take(seen)
        return Cut(b"", 0)

    hostile.on(f"PUT {SESSION}", stored_and_silent)
    app.upload_blob(BLOB)
    assert store.blob == BLOB
    assert [method for method, *_ in store.seen] == ["PUT"]


def test_an_upload_that_never_moves_ends_after_its_tries(hostile, app):
    store = Store(hostile, losses=[0] * 10)
    with pytest.raises(Unreachable):
        app.upload_blob(BLOB, chunk_bytes=50_000)
    assert len(store.seen) == 3


def test_an_upload_may_break_off_often_as_long_as_it_moves(hostile, app):
    store = Store(hostile, losses=[10_000] * 8)
    app.upload_blob(BLOB, chunk_bytes=50_000)
    assert store.blob == BLOB


@pytest.mark.parametrize("kept", [0, 15_000, 40_000])
def test_a_stream_that_breaks_off_sends_the_rest_of_the_chunk_that_it_holds(hostile, app, kept):
    store = Store(hostile, losses=[None, kept])
    app.upload_blob(Once(BLOB), chunk_bytes=40_000)
    assert store.blob == BLOB


class Once(io.RawIOBase):
    """Bytes that can be read only once."""

    def __init__(self, data):
        super().__init__()
        self._data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._data.readinto(buffer)


def test_a_stream_whose_beginning_was_lost_says_that_a_file_is_needed(hostile, app):
    store = Store(hostile, losses=[None, 0])

    def forgetful(seen):
        store.kept = b""
        return store.status(seen)

    hostile.on(f"GET {SESSION}", forgetful)
    with pytest.raises(BadResponse, match="upload it from a file"):
        app.upload_blob(Once(BLOB), chunk_bytes=40_000)


def test_a_registry_that_accepts_chunks_and_keeps_none_is_not_sent_them_for_ever(hostile, app):
    store = Store(hostile)
    hostile.on(f"PATCH {SESSION}", lambda _: store.where(202))
    with pytest.raises(BadResponse, match="has not kept it"):
        app.upload_blob(BLOB, chunk_bytes=50_000)


def test_a_registry_that_contradicts_itself_gets_the_blob_from_its_beginning(hostile, app):
    """It refuses the very place that it names."""
    store, refusals = Store(hostile), [None]

    def refuse_once(seen):
        if refusals and store.kept:
            refusals.pop()
            return store.where(416)
        return store.take(seen)

    hostile.on(f"PATCH {SESSION}", refuse_once)
    app.upload_blob(BLOB, chunk_bytes=50_000)
    assert store.blob == BLOB
    assert [seen.method for seen in hostile.requests].count("POST") == 2


def test_chunks_are_as_large_as_the_registry_wants_them(hostile, app):
    store = Store(hostile)
    least = {"Location": SESSION, "OCI-Chunk-Min-Length": "60000"}
    hostile.on(f"POST {UPLOADS}", lambda seen: (store.start(seen), reply(202, headers=least))[1])
    app.upload_blob(BLOB, chunk_bytes=1000)
    assert [size for _, _, size in store.seen] == [60_000, len(BLOB) - 60_000, 0]


def test_a_file_that_shrinks_on_the_way_is_a_fault_of_this_machine(hostile, app, tmp_path):
    Store(hostile)
    file = tmp_path / "blob"
    file.write_bytes(BLOB)
    hostile.on(f"HEAD {PATH}", lambda _: (os.truncate(file, 100), reply(404))[1])
    with pytest.raises(OSError, match="shorter than it was"):
        app.upload_blob(file)


# -- a registry whose line breaks -------------------------------------------------------------


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("how", [{}, {"chunk_bytes": 40_000}])
def test_an_upload_over_a_line_that_breaks_arrives_whole(quick, keeps, how):
    with Sandbox(keep_partial=keeps) as server, Registry(server.host) as registry:
        for method in ("PATCH", "PUT"):
            server.faults.add(method=method, path="/v2/*/blobs/uploads/*", cut_request=10_000, times=1)
        server.faults.add(method="PATCH", drop="after", times=1)
        digest = registry.repository("team/app").upload_blob(BLOB, **how)
        assert server.store.blob("team/app", digest) == BLOB


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_over_a_line_that_breaks_arrives_whole(quick, tmp_path, ranges):
    with Sandbox(ranges=ranges) as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        digest = repository.upload_blob(BLOB)
        server.faults.add(method="GET", path="/v2/*/blobs/*", cut_reply=60_000, times=1)
        server.faults.add(method="GET", path="/v2/*/blobs/*", status=503, retry_after=0, times=1)
        repository.download_blob(digest, tmp_path / "blob")
        assert (tmp_path / "blob").read_bytes() == BLOB


def test_a_token_that_ends_in_the_middle_of_an_upload_is_renewed(quick):
    with (
        Sandbox(users={"alice": "secret"}, auth="bearer") as server,
        Registry(server.host, username="alice", password="secret") as registry,
    ):
        repository, ended = registry.repository("team/app"), []

        def end_tokens(done, _):
            if done > 60_000 and not ended:
                ended.append(done)
                server.revoke_tokens()

        digest = repository.upload_blob(BLOB, chunk_bytes=30_000, progress=end_tokens)
        assert ended
        assert server.store.blob("team/app", digest) == BLOB


# -- at the edges -----------------------------------------------------------------------------


class Narrow(io.RawIOBase):
    """Takes a few bytes at a time and says how many, as an unbuffered socket may; then perhaps none."""

    def __init__(self, most=1 << 30):
        super().__init__()
        self.data, self.most = b"", most

    def writable(self):
        return True

    def write(self, data):
        taken = bytes(data[: min(1000, self.most - len(self.data))])
        self.data += taken
        return len(taken) or None


def test_what_takes_a_part_of_each_piece_gets_the_rest_of_it(hostile, app):
    hostile.on(f"GET {PATH}", reply(200, BLOB))
    narrow = Narrow()
    app.download_blob(DIGEST, narrow)
    assert narrow.data == BLOB


def test_what_takes_no_more_is_an_error_and_not_a_loop(hostile, app):
    hostile.on(f"GET {PATH}", reply(200, BLOB))
    with pytest.raises(BlockingIOError, match="takes nothing more"):
        app.download_blob(DIGEST, Narrow(2500))


def test_two_downloads_to_one_path_do_not_mix(hostile, app, tmp_path):
    target = tmp_path / "blob"

    def serve(_):
        if len(hostile.requests) == 1:  # another one begins and ends while the first is under way
            with Registry(hostile.host) as registry:
                registry.repository("team/app").download_blob(DIGEST, target)
        return reply(200, BLOB)

    hostile.on(f"GET {PATH}", serve)
    app.download_blob(DIGEST, target)
    assert target.read_bytes() == BLOB
    assert list(tmp_path.glob("*blob*")) == [target]


def test_a_file_beside_the_target_is_neither_followed_nor_lost(hostile, app, tmp_path):
    hostile.on(f"GET {PATH}", reply(200, BLOB))
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".blob.part").symlink_to(tmp_path / "precious")
    app.download_blob(DIGEST, tmp_path / "blob")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / ".blob.part").is_symlink()


class NothingYet(Once):
    """A stream that does not block: it says that there is nothing yet."""

    def read(self, size=-1):
        return super().read(size) or None


def test_a_stream_that_has_nothing_yet_is_not_taken_for_its_end(server, mine):
    with pytest.raises(BlockingIOError, match="has nothing yet"):
        mine.upload_blob(NothingYet(BLOB))
    assert "PUT" not in methods(server)


@pytest.mark.parametrize("source", [bytes, Once])
@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_of_no_bytes_is_refused_before_anything_is_sent(server, mine, source, size):
    with pytest.raises(UsageError, match="chunk_bytes"):
        mine.upload_blob(source(BLOB), chunk_bytes=size)
    assert not server.requests


def test_a_stream_is_not_held_in_memory_for_a_registry_that_wants_giant_chunks(hostile, app):
    store = Store(hostile)
    least = {"Location": SESSION, "OCI-Chunk-Min-Length": "99999999999"}
    hostile.on(f"POST {UPLOADS}", lambda seen: (store.start(seen), reply(202, headers=least))[1])
    with pytest.raises(BadResponse, match="upload it from a file"):
        app.upload_blob(Once(BLOB), chunk_bytes=1000)
    app.upload_blob(BLOB, chunk_bytes=1000)
    assert store.blob == BLOB


@pytest.mark.parametrize("stored", [True, False])
def test_a_stream_is_not_lost_with_the_answer_to_its_end(hostile, app, stored):
    store, cuts = Store(hostile), [Cut(b"", 0)]

    def end(seen):
        if not cuts:
            return store.take(seen)
        if stored:
            store.take(seen)
        return cuts.pop()

    hostile.on(f"PUT {SESSION}", end)
    assert app.upload_blob(Once(BLOB), chunk_bytes=40_000) == DIGEST
    assert store.blob == BLOB


def test_a_single_request_that_breaks_off_is_followed_by_an_upload(hostile, app):
    store = Store(hostile)
    posts = [Cut(b"", 0, reset=True)]
    hostile.on(f"POST {UPLOADS}", lambda seen: posts.pop() if posts else store.start(seen))
    app.upload_blob(BLOB, single_post=True)
    assert store.blob == BLOB


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_mount_that_was_not_possible_is_no_error_where_the_session_cannot_be_cancelled(hostile, app, status):
    """The distribution specification has no end point to cancel an upload, and some need the right to delete for it."""
    Store(hostile)
    hostile.on(f"DELETE {SESSION}", reply(status))
    assert not app.mount_blob(DIGEST, "team/base")


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_a_mount_that_is_refused_does_not_end_the_upload(hostile, app, status):
    store = Store(hostile)
    hostile.on(f"POST {UPLOADS}", lambda seen: reply(status) if "mount=" in seen.target else store.start(seen))
    app.upload_blob(BLOB, mount_from="team/base")
    assert store.blob == BLOB


def test_an_empty_chunk_by_hand_changes_nothing(server, mine):
    upload = mine.start_upload()
    upload.send(BLOB[:700])
    server.requests.clear()
    assert upload.send(b"") == 700
    assert not server.requests


@pytest.mark.parametrize(
    "moment", [f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", f"Mon, 01 Jan 2020 00:00:00 +{'9' * 14}", "tomorrow"]
)
def test_a_moment_beyond_the_calendar_is_no_moment(hostile, app, moment):
    now = {"Retry-After": moment, "Date": "Mon, 01 Jan 2024 00:00:00 GMT"}
    hostile.on("GET /v2/team/app/tags/list", reply(503, headers=now), reply(json={"name": "team/app", "tags": ["a"]}))
    assert app.tags() == ["a"]
