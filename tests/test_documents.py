"""Many documents are on disk while they are read, and are looked up there one at a time."""

import gc
import pickle
import stat
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from regaudit.client.registry import Registry
from regaudit.errors import SnapshotError
from regaudit.inventory import documents as module
from regaudit.inventory.collect import collect
from regaudit.inventory.documents import Document, Documents, DocumentWriter
from regaudit.inventory.snapshot import Snapshot

DOCUMENTS = {f"sha256:{number:064x}": Document("a/b", b"%d" % number * 50) for number in range(100)}


@pytest.fixture(autouse=True)
def small_groups(monkeypatch, tmp_path):
    """Spill often, into a temporary folder of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(module, "_GROUP_BYTES", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def written(folder=None):
    with DocumentWriter(folder) as writer:
        for digest, document in DOCUMENTS.items():
            writer.add(digest, document.media_type, document.raw)
        return writer.finish()


def left(folder):
    return [path.name for path in folder.iterdir()]


def test_documents_in_a_file_are_those_that_were_written():
    documents = written()
    assert len(documents) == 100
    assert dict(documents) == DOCUMENTS
    assert "sha256:none" not in documents
    assert documents.get("x") is None


def test_looking_one_up_reads_its_group_alone(monkeypatch):
    documents = written()
    len(documents)
    read, original = [], pq.ParquetFile.read_row_group

    def counting(self, group, columns):
        read.append((group, columns))
        return original(self, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    for digest in list(DOCUMENTS)[3:6]:
        assert documents[digest] == DOCUMENTS[digest]
    assert "sha256:none" not in documents
    assert len(read) == 1


def test_the_temporary_file_is_private_and_gone_from_the_folder_when_it_was_written(tmp_path):
    folder = tmp_path / "tmp"
    with DocumentWriter() as writer:
        writer.add("a", "b", b"x" * 2000)
        (path,) = folder.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        documents = writer.finish()
    assert left(folder) == []
    assert documents["a"].raw == b"x" * 2000


def test_what_is_not_finished_leaves_no_file(tmp_path):
    with DocumentWriter(tmp_path / "tmp") as writer:
        writer.add("a", "b", b"x" * 2000)
        assert len(left(tmp_path / "tmp")) == 1
    assert left(tmp_path / "tmp") == []


def test_few_documents_stay_in_memory(tmp_path):
    with DocumentWriter(tmp_path / "tmp") as writer:
        writer.add("a", "b", b"x")
        assert dict(writer.finish()) == {"a": Document("b", b"x")}
    assert left(tmp_path / "tmp") == []


def test_saving_where_they_lie_gives_the_file_its_name_and_copies_nothing(tmp_path):
    folder = tmp_path / "tmp"
    documents = written(folder)
    (staged,) = folder.iterdir()
    inode = staged.stat().st_ino
    documents.save(folder / "documents.parquet")
    documents.save(folder / "documents.parquet")
    assert left(folder) == ["documents.parquet"]
    assert (folder / "documents.parquet").stat().st_ino == inode
    assert dict(documents) == dict(Documents(path=folder / "documents.parquet")) == DOCUMENTS


def test_saving_elsewhere_copies_a_group_at_a_time(tmp_path):
    for documents in (written(), Documents(DOCUMENTS)):
        documents.save(tmp_path / "copy")
        assert dict(Documents(path=tmp_path / "copy")) == DOCUMENTS
        assert pq.ParquetFile(tmp_path / "copy").num_row_groups > 5
    Documents(path=tmp_path / "copy").save(tmp_path / "other")
    Documents(path=tmp_path / "none").save(tmp_path / "nothing")
    assert dict(Documents(path=tmp_path / "other")) == DOCUMENTS
    assert len(Documents(path=tmp_path / "nothing")) == 0


def test_documents_that_were_read_stay_those_when_another_snapshot_takes_their_place(tmp_path):
    path = tmp_path / "documents"
    written().save(path)
    documents = Documents(path=path)
    assert len(documents) == 100
    Documents({"new": Document("c", b"d")}).save(path)
    assert dict(documents) == DOCUMENTS
    documents.save(path)
    assert dict(Documents(path=path)) == DOCUMENTS


def test_documents_can_be_pickled():
    assert dict(pickle.loads(pickle.dumps(written()))) == DOCUMENTS


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", b"x" * 5000])
def test_a_damaged_file_is_said_to_be(tmp_path, content):
    (tmp_path / "documents").write_bytes(content)
    documents = Documents(path=tmp_path / "documents")
    for look in (len, list, lambda d: d["a"]):
        with pytest.raises(SnapshotError, match="damaged"):
            look(documents)


def test_a_group_that_is_damaged_is_said_to_be(tmp_path):
    path = tmp_path / "documents"
    written().save(path)
    data = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(5).column(2).data_page_offset
    data[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match="damaged"):
        dict(Documents(path=path))


# -- of a reading ----------------------------------------------------------------------------


def test_a_reading_into_a_folder_saves_the_snapshot_with_its_documents_there(sample_sandbox, tmp_path):
    with Registry(sample_sandbox.host) as door:
        plain = collect(door, progress=False, cache=None)
        snapshot = collect(door, progress=False, cache=None, into=tmp_path / "deep" / "snapshot")
    loaded = Snapshot.load(tmp_path / "deep" / "snapshot")
    assert dict(loaded.documents) == dict(snapshot.documents) == dict(plain.documents)
    assert [path for path in (tmp_path / "deep" / "snapshot").iterdir() if path.name.startswith(".")] == []
    assert loaded.manifests.equals(snapshot.manifests)


def test_the_documents_of_a_snapshot_last_as_long_as_it_does(sample_registry, tmp_path):
    snapshot = collect(sample_registry, progress=False, cache=None)
    assert left(tmp_path / "tmp") == []
    digests = set(snapshot.manifests["digest"].astype("object"))
    assert digests <= set(snapshot.documents)
    kept = Path("/proc/self/fd")
    before = len(list(kept.iterdir())) if kept.exists() else 1
    del snapshot
    gc.collect()
    assert not kept.exists() or len(list(kept.iterdir())) < before
