"""Large blobs and broken ones on a real registry: Debian's docker-registry 2.8.2."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tracemalloc

import pytest

from regaudit.client.registry import Registry
from regaudit.errors import BlobInUse, NotFound
from regaudit.manifest import OCI_EMPTY, OCI_MANIFEST
from regaudit.reference import Digest

pytestmark = pytest.mark.real

ABSENT = Digest("sha256:" + "0" * 64)
LARGE = 48 << 20


@pytest.fixture
def large(tmp_path):
    """Give a file of 48 MiB that holds no pattern."""
    path = tmp_path / "large"
    seed = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(LARGE >> 20):
            file.write(number.to_bytes(4, "big") + seed[4:])
    return path


@pytest.fixture
def mine(sample_docker_registry, unique_name):
    """Give a repository of one's own on the shared real registry."""
    with Registry(sample_docker_registry.host) as registry:
        yield registry.repository(unique_name("app"))


def peak_of(work):
    """Return the most bytes of memory that Python held at a time while something was done, beside what it held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", [{}, {"chunk_bytes": 5 << 20}], ids=["in one piece", "in chunks"])
def test_a_large_blob_takes_no_memory_up_or_down(mine, large, tmp_path, how):
    found = []
    assert peak_of(lambda: found.append(mine.upload_blob(large, **how))) < 4 << 20
    assert peak_of(lambda: mine.download_blob(found[0], tmp_path / "back")) < 4 << 20
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_pipe_takes_a_chunk_of_memory(mine, large):
    def send():
        with subprocess.Popen(["cat", str(large)], stdout=subprocess.PIPE) as process:
            mine.upload_blob(process.stdout, chunk_bytes=4 << 20)

    assert peak_of(send) < 14 << 20


def test_an_upload_survives_a_registry_that_is_killed_in_its_middle(docker_registry, large):
    """2.8.2 gives up a session in which a chunk broke off: the blob then begins anew."""
    killed = []

    def kill(done, total):
        if not killed and done > total // 2:
            killed.append(done)
            docker_registry.restart()

    with Registry(docker_registry.host, tries=5) as registry:
        repository = registry.repository("team/app")
        digest = repository.upload_blob(large, chunk_bytes=5 << 20, progress=kill)
        assert killed
        assert repository.blob_size(digest) == LARGE


def test_a_download_survives_a_registry_that_is_killed_in_its_middle(docker_registry, large):
    with Registry(docker_registry.host, tries=5) as registry:
        repository = registry.repository("team/app")
        digest = repository.upload_blob(large)
        hasher, killed = hashlib.sha256(), []

        class Target:
            size = 0

            def write(self, data):
                hasher.update(data)
                self.size += len(data)
                if not killed and self.size > LARGE // 2:
                    killed.append(self.size)
                    docker_registry.restart()

        target = Target()
        repository.download_blob(digest, target)
        assert killed
        assert (target.size, hasher.hexdigest()) == (LARGE, digest.encoded)


def test_an_upload_by_hand_and_a_mount_on_a_real_registry(mine, unique_name):
    upload = mine.start_upload()
    upload.send(b"one")
    assert upload.received == 3
    digest = upload.complete(Digest.of(b"onetwo"), b"two")
    other = mine.registry.repository(unique_name("other"))
    assert other.mount_blob(digest, mine.name)
    assert other.blob_size(digest) == 6
    assert not other.mount_blob(ABSENT, mine.name)
    cancelled = mine.start_upload()
    cancelled.cancel()
    with pytest.raises(NotFound):
        cancelled.status()


def test_a_blob_in_use_is_kept_and_one_of_nobody_goes(mine):
    used = mine.upload_blob(b"{}")
    config = {"mediaType": OCI_EMPTY, "digest": used, "size": 2}
    mine.put_manifest("v1", json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config}).encode())
    with pytest.raises(BlobInUse):
        mine.delete_blob(used)
    free = mine.upload_blob(b"nobody's")
    assert mine.delete_blob(free) == 202
    with pytest.raises(NotFound):
        mine.head_blob(free)
