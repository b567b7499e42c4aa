"""What was read once is not read again, however a reading ended; and the cache is never in the way."""

import json
import logging
import os
import sqlite3
import stat
from collections import Counter

import pandas as pd
import pytest
from click.testing import CliRunner

import regaudit.inventory.cache as cache_module
from regaudit.cli import main
from regaudit.client.registry import Registry
from regaudit.errors import UsageError
from regaudit.inventory.cache import FILE_NAME, Cache, default_folder
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox

APP, WEB = "team/app", "team/web"


@pytest.fixture
def store(filled):
    return filled.store


@pytest.fixture
def filled():
    """Serve two repositories: three images on four tags, one of them of an index with two children, one image shared."""
    with Sandbox(referrers=False) as server:
        children = [image(server.store, APP, name) for name in ("amd64", "arm64")]
        index(server.store, APP, children, "multi")
        image(server.store, APP, "one", "1", "latest")
        image(server.store, WEB, "one", "1")
        yield server


@pytest.fixture
def door(filled):
    with Registry(filled.host) as door:
        door.session.capabilities["referrers"] = False  # as if probed before
        yield door


def dump(document):
    return json.dumps(document).encode()


def image(store, repository, name, *tags):
    config = dump({"os": "linux", "architecture": "amd64", "created": "2026-01-01T00:00:00Z", "name": name})
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": store.put_blob(repository, config), "size": len(config)},
        "layers": [{"mediaType": "x/y", "digest": store.put_blob(repository, name.encode()), "size": len(name)}],
    }
    return put(store, repository, OCI_MANIFEST, dump(document), *tags)


def index(store, repository, children, *tags):
    entries = [{"mediaType": OCI_MANIFEST, "digest": digest, "size": 3} for digest in children]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return put(store, repository, OCI_INDEX, dump(document), *tags)


def put(store, repository, media_type, raw, *tags):
    digest = store.put_manifest(repository, str(Digest.of(raw)), media_type, raw)
    for tag in tags:
        store.set_tag(repository, tag, digest)
    return digest


def read(door, *patterns, **options):
    """Read, and return the snapshot with its requests, those that are asked once for a registry apart."""
    snapshot = collect(door, *patterns, progress=False, **options)
    return snapshot, {kind: n for kind, n in snapshot.requests.items() if kind not in {"ping", "catalog"}}


def same(one, other):
    for name, frame in one.tables.items():
        left, right = (f.drop(columns=["seen_at"], errors="ignore") for f in (frame, other.tables[name]))
        pd.testing.assert_frame_equal(left, right)
    assert dict(one.documents) == dict(other.documents)


# -- the fewest requests ---------------------------------------------------------------------

COLD = {"tags": 2, "manifest": 4 + 2, "blob": 3}
WARM = {"tags": 2, "head": 4}


def test_a_cold_reading_is_a_get_for_each_tag_and_child_and_one_for_each_config(filled, door):
    snapshot, requests = read(door)
    assert requests == COLD
    assert sum(snapshot.requests.values()) == len(filled.requests)


def test_a_warm_reading_is_a_head_for_each_tag_and_gives_the_same(filled, door):
    cold, _ = read(door)
    filled.requests.clear()
    warm, requests = read(door)
    assert requests == WARM
    assert Counter(method for method, *_ in filled.requests) == {"HEAD": 4, "GET": 2 + 2}
    same(cold, warm)
    assert warm.cached == 3 + 2 + 3  # the manifests that tags are on, the children, the configs
    assert "from the cache" in warm.summary()["requests"]


def test_a_tag_that_moved_costs_one_get_and_the_config_that_is_new(store, door):
    read(door)
    image(store, APP, "two", "latest")
    snapshot, requests = read(door)
    assert requests == {**WARM, "manifest": 1, "blob": 1}
    same(snapshot, read(door, cache=None)[0])


def test_a_tag_that_moved_to_something_known_costs_nothing_more(store, door):
    read(door)
    store.set_tag(APP, "1", store.tags(APP)["multi"])
    assert read(door)[1] == WARM


def test_a_new_tag_is_got_at_once_and_known_the_next_time(store, door):
    read(door)
    image(store, APP, "new", "2")
    assert read(door)[1] == {**WARM, "manifest": 1, "blob": 1}
    assert read(door)[1] == {**WARM, "head": 5}


def test_a_tag_that_is_gone_is_forgotten(store, door, tmp_path):
    with Cache(tmp_path) as cache:
        read(door, cache=cache)
        store.delete_manifest(APP, "latest")
        assert read(door, cache=cache)[1] == {**WARM, "head": 3}
        cache.flush()
        assert cache.known_tags(cache.place(door.host, APP), ["1", "latest", "multi"], complete=True) == {"1", "multi"}


def test_where_a_get_is_metered_each_digest_is_got_once(filled, door):
    snapshot, requests = read(door, head_first=True, cache=None)
    assert requests == {"tags": 2, "head": 4, "manifest": 3 + 2, "blob": 3}
    assert read(door, head_first=True)[1]["manifest"] == 3 + 2
    warm, requests = read(door, head_first=True)
    assert requests == WARM
    same(snapshot, warm)


def test_what_refers_to_a_digest_is_asked_each_time_once_for_each(sandbox, registry):
    cold, _ = read(registry)
    warm, requests = read(registry)
    digests = len(cold.manifests)
    assert requests["referrers"] <= digests
    assert set(requests) == {"tags", "head", "referrers", "manifest"}  # a manifest: the tag that is dangling
    assert requests["head"] == len(warm.tags) - 1
    assert requests["manifest"] == 1
    same(cold, warm)
    assert "referrers" not in read(registry, referrers=False)[1]


def test_a_child_that_was_missing_is_asked_for_again(store, door):
    absent = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    entries = [{"mediaType": OCI_INDEX, "digest": str(Digest.of(absent)), "size": len(absent)}]
    put(store, APP, OCI_INDEX, dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}), "sparse")
    assert "missing_child" in set(read(door)[0].problems["error"])
    snapshot, requests = read(door)
    assert "missing_child" in set(snapshot.problems["error"])
    assert requests == {**WARM, "head": 5, "manifest": 1}
    put(store, APP, OCI_INDEX, absent)
    assert read(door)[0].problems.empty


def test_what_another_repository_has_is_not_taken_for_what_this_one_has(store, door):
    """An index copied without its children lacks them here, though the cache knows them from elsewhere."""
    read(door)
    raw = store.manifest(APP, store.tags(APP)["multi"])[1]
    put(store, WEB, OCI_INDEX, raw, "multi")
    for _ in range(2):
        snapshot, _ = read(door)
        assert snapshot.problems["error"].tolist() == ["missing_child"] * 2
        assert set(snapshot.problems["repository"]) == {WEB}


def test_what_an_interrupted_reading_got_is_not_got_again(sample, tmp_path, every_result):
    with Sandbox(referrers=False) as server, Registry(server.host) as door:
        server.store.load(sample)
        whole, cold = read(door, cache=None)
        taken = []

        def interrupt(_):
            taken.append(Counter(path for method, path, _ in server.requests if method == "GET"))
            if len(taken) == 40:
                raise KeyboardInterrupt

        server.requests.clear()
        first = collect(door, progress=interrupt, cache=tmp_path)
        assert not first.complete
        server.requests.clear()
        second, requests = read(door, cache=tmp_path)
        same(whole, second)
        assert requests["manifest"] + requests["blob"] <= cold["manifest"] + cold["blob"] - len(first.documents)


# -- never in the way ------------------------------------------------------------------------


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_it_is_the_users_alone(door):
    read(door)
    path = default_folder() / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_none_leaves_nothing_behind(door):
    read(door, cache=None)
    assert not default_folder().exists()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_damaged_file_is_made_anew(door, tmp_path, content, caplog):
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read(door, cache=tmp_path)[1] == COLD
    assert "damaged" in warnings_of(caplog)[0]
    assert read(door, cache=tmp_path)[1] == WARM


def test_a_file_that_is_damaged_in_the_middle_costs_requests_and_no_more(door, tmp_path, caplog):
    whole, _ = read(door, cache=tmp_path)
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    for _ in range(3):
        snapshot, requests = read(door, cache=tmp_path)
        same(whole, snapshot)
    assert requests == WARM
    assert warnings_of(caplog)


def test_bytes_that_are_not_those_of_their_digest_are_dropped_and_read_again(door, tmp_path, caplog):
    whole, _ = read(door, cache=tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE documents SET packed = (SELECT packed FROM documents WHERE media_type = '' LIMIT 1)")
    connection.close()
    snapshot, requests = read(door, cache=tmp_path)
    same(whole, snapshot)
    assert requests["manifest"] > 0
    assert "not what it says" in warnings_of(caplog)[0]
    assert read(door, cache=tmp_path)[1] == WARM


@pytest.mark.parametrize(("column", "value"), [("size", 1 << 40), ("size", -1), ("size", "x"), ("packed", b"junk")])
def test_an_entry_that_cannot_be_unpacked_is_read_again(door, tmp_path, column, value):
    read(door, cache=tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(f"UPDATE documents SET {column} = ?", (value,))
    connection.close()
    assert read(door, cache=tmp_path)[0].complete
    assert read(door, cache=tmp_path)[1] == WARM


def test_a_file_of_another_format_is_left_as_it_is(door, tmp_path, caplog):
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    assert read(door, cache=tmp_path)[1] == COLD
    assert "format 999" in warnings_of(caplog)[0]
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_folder_that_is_a_file_and_a_link_in_the_place_of_the_file_are_not_written_through(door, tmp_path, caplog):
    (tmp_path / "file").write_text("mine")
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "file")
    for folder in (tmp_path, tmp_path / "file"):
        assert read(door, cache=folder)[1] == COLD
    assert len(warnings_of(caplog)) == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_while_another_process_keeps_it_locked_the_reading_goes_on_without_it(door, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("regaudit.inventory.cache._PATIENCE", 0.01)
    read(door, cache=tmp_path)
    connection = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    assert read(door, cache=tmp_path)[1] == COLD
    connection.execute("ROLLBACK")
    connection.close()
    assert "locked" in warnings_of(caplog)[0]
    assert read(door, cache=tmp_path)[1] == WARM


def test_deleting_it_while_it_is_in_use_costs_only_requests(door, tmp_path):
    with Cache(tmp_path) as cache:
        read(door, cache=cache)
        cache.path.unlink()
        assert read(door, cache=cache)[0].complete
    assert read(door, cache=tmp_path)[0].complete
    assert read(door, cache=tmp_path)[1] == WARM


def test_two_share_it(door, tmp_path):
    with Cache(tmp_path) as one, Cache(tmp_path) as other:
        read(door, APP, cache=one)
        assert read(door, APP, cache=other)[1] == {"tags": 1, "head": 3}
        assert len(one) == len(other) > 0


# -- its size --------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes_first(door, tmp_path, monkeypatch):
    with Cache(tmp_path, most_bytes=200_000) as cache:
        place = cache.place("registry:5000", APP)
        documents = [os.urandom(1000) for _ in range(300)]
        for day, raw in enumerate(documents):
            monkeypatch.setattr("regaudit.inventory.cache.time.time", lambda day=day: 1e9 + day * 86401)
            cache.add(place, str(Digest.of(raw)), "", raw)
            cache.config(str(Digest.of(documents[0])), place)
            if day % 10 == 9:
                cache.flush()
        assert cache.size_bytes <= 200_000
        assert cache.config(str(Digest.of(documents[-1])), place) == documents[-1]
        assert cache.config(str(Digest.of(documents[0])), place) == documents[0]
        assert cache.config(str(Digest.of(documents[5])), place) is None


def test_clear_forgets_everything_and_gives_the_space_back(door, tmp_path):
    with Cache(tmp_path) as cache:
        read(door, cache=cache)
        place, raw = cache.place("registry:5000", APP), os.urandom(1 << 20)
        cache.add(place, str(Digest.of(raw)), "", raw)
        cache.flush()
        before = cache.path.stat().st_size
        cache.clear()
        assert len(cache) == 0
        assert cache.path.stat().st_size < before / 4
        assert read(door, cache=cache)[1] == COLD


def test_what_does_not_hash_to_its_digest_is_not_taken_in(tmp_path):
    with Cache(tmp_path) as cache:
        place = cache.place("registry:5000", APP)
        for raw, digest in ((b"{}", Digest.of(b"{} ")), (b"x" * (9 << 20), Digest.of(b"x" * (9 << 20)))):
            cache.add(place, digest, "", raw)
        cache.add(place, Digest.of(b"{}", "sha512"), "", b"{}")
        cache.flush()
        assert len(cache) == 1
        assert cache.config(Digest.of(b"{}", "sha512"), place) == b"{}"


def test_a_size_that_holds_nothing_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cache=None"):
        Cache(tmp_path, most_bytes=0)


# -- on the command line ---------------------------------------------------------------------


def test_the_command_line_uses_it_or_not_shows_and_clears_it(filled, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, [*map(str, arguments)])

    folder = tmp_path / "cache"
    audit = ("audit", filled.host, "-q", "--out", tmp_path / "out")
    assert run(*audit, "--cache", folder).exit_code == 0
    assert "from the cache" in run(*audit, "--cache", folder).stdout
    assert "from the cache" not in run(*audit, "--no-cache").stdout
    assert not default_folder().exists()
    assert "7 documents" in run("cache", "show", "--cache", folder).stdout
    assert "cleared" in run("cache", "clear", "--cache", folder).stdout
    assert "0 documents" in run("cache", "show", "--cache", folder).stdout
    both = run(*audit, "--cache", folder, "--no-cache")
    assert (both.exit_code, "contradict" in both.stderr) == (2, True)


def test_the_command_line_says_what_to_do_with_a_file_that_cannot_be_cleared(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    done = CliRunner().invoke(main, ["cache", "clear", "--cache", str(tmp_path)])
    assert done.exit_code == 1
    assert "delete the file" in done.stderr


def test_a_warm_reading_of_what_has_not_changed_writes_nothing_but_asks_in_few_queries(door, tmp_path):
    read(door, cache=tmp_path)
    with Cache(tmp_path) as cache:
        queries = []
        cache._connection.set_trace_callback(queries.append)
        assert read(door, cache=cache)[1] == WARM
        changed = cache._connection.total_changes
    assert changed == 0
    assert sum("packed" in query for query in queries) == 2 + 3, "each repository's tags, and what hangs on these"


def test_reading_ahead_finds_its_rows_by_their_names_however_much_a_repository_has(door, tmp_path):
    with Cache(tmp_path) as cache:
        for query in (cache_module._BEHIND_TAGS, cache_module._HANGING):
            plan = [
                row[-1] for row in cache._connection.execute(f"EXPLAIN QUERY PLAN {query}", [None] * query.count("?"))
            ]
            assert not [step for step in plan if step.startswith("SCAN")]
            assert any("tag=?" in step for step in plan) or plan[0].startswith("SEARCH documents"), plan
