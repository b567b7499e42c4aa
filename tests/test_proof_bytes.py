"""What a plan predicts is what ``docker-registry garbage-collect`` frees on the disk, to the byte, and undo restores all of it.

Registries are made up at random (`registries`), pushed to a real docker-registry, and cleaned through the public door. A
rule of the test's own, which counts what every manifest lists, says the same as the disk.
"""

import json
import shutil
from contextlib import contextmanager
from random import Random

import pytest
from conftest import cases
from docker_registry import DockerRegistry
from registries import Shelf, made_up

from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.client import v2
from regaudit.client.registry import Registry
from regaudit.errors import NotFound
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from regaudit.reference import Digest

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]

SEEDS = range(cases(4, 200))
# Of each registry, so many plans are carried out on a copy of its storage.
PLANS = 2


def blobs_on_disk(server):
    """Return the bytes of every blob file by digest, manifests included."""
    files = (server.storage / "docker/registry/v2/blobs").glob("*/*/*/data")
    return {f"{file.parts[-4]}:{file.parts[-2]}": file.stat().st_size for file in files}


def freed_by(server):
    """Collect garbage, and return how many bytes of blobs went."""
    before = blobs_on_disk(server)
    server.garbage_collect()
    after = blobs_on_disk(server)
    assert after.items() <= before.items()
    return sum(before.values()) - sum(after.values())


def given_out(server, made):
    """Return every tag with its digest, and every manifest with its bytes, as the registry gives them out now."""
    with Registry(server.host) as door:
        tags = {name: {} for name in made.shelves}
        for name in made.shelves:
            place = door.repository(name)
            tags[name] = {tag: str(place.manifest(tag).digest) for tag in place.tags()}
        manifests = {}
        for name, digest in sorted(made.manifests()):
            raw = door.run(there(door.session, name, digest))
            if raw is not None:
                manifests[name, digest] = raw
        return tags, manifests


def there(session, repository, digest):
    """Return the bytes of a manifest, or None where it is gone."""
    try:
        return (yield from v2.get_manifest(session, repository, digest)).raw
    except NotFound:
        return None


def held(made):
    return {(name, digest): raw for name, shelf in made.shelves.items() for digest, (_, raw) in shelf.manifests.items()}


def tags_of(made):
    return {name: dict(shelf.tags) for name, shelf in made.shelves.items()}


@contextmanager
def pushed(made, folder):
    """Give a real registry with what was made up, and nothing else: what was garbage is collected."""
    with DockerRegistry(folder / f"registry-{made.seed}") as server, Registry(server.host) as door:
        made.push(door)
        yield server, door


@contextmanager
def copied(server, folder):
    """Give a registry of its own on a copy of another's storage."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with DockerRegistry(folder, storage=shutil.copytree(server.storage, folder / "copy")) as copy:
        yield copy


def random_plan(snapshot, random, repositories=None):
    """Plan the deletion of some tags, of one repository or of all, with options drawn by chance."""
    named = snapshot.tags[["repository", "tag"]].astype("object")
    if repositories is not None:
        named = named[named["repository"].isin(repositories)]
    share = random.choice((0.2, 0.5, 0.8, 1.0))
    chosen = named[[random.random() < share for _ in range(len(named))]]
    protect = random.choice(((), (), (f"v{random.randrange(10)}*",)))
    return plan(snapshot, chosen, protect=protect, allow_empty=random.random() < 0.5)


def gone_by(made_plan):
    return {(row.repository, row.digest) for row in made_plan.rows}


def some_keys(made_plan, random):
    return [row.key for row in made_plan.rows if row.role == "candidate" and random.random() < 0.6]


@pytest.mark.parametrize("seed", SEEDS)
def test_garbage_collection_frees_what_the_plan_predicts_and_undo_before_it_restores_everything(
    docker_registry_program, tmp_path, seed
):
    made, random = made_up(seed), Random(seed)
    with pushed(made, tmp_path) as (original, door):
        assert freed_by(original) == 0
        snapshot = collect(door, progress=False)
        assert {*zip(snapshot.manifests["repository"], snapshot.manifests["digest"], strict=True)} == made.manifests()
        for number in range(PLANS):
            with copied(original, tmp_path / "copy") as server:
                one = [random.choice(list(made.shelves))]
                carry_out(server, made, random, None if number % 2 else one, tmp_path / f"{number}.sqlite")


def carry_out(server, made, random, repositories, journal):
    with Registry(server.host) as door, Cleaner(door, journal=journal) as cleaner:
        whole = random_plan(collect(door, progress=False), random, repositories)
        made_plan = whole.select(some_keys(whole, random)).approve("Ada")
        assert "unread" not in made_plan.bounds
        assert made_plan.reclaimable_bytes == made.freed_bytes(gone_by(made_plan))
        assert made_plan.reclaimable_bytes == sum(row.freed_bytes for row in made_plan.rows)
        run = cleaner.execute(made_plan)
        assert run.counts() == ({"deleted": made_plan.digests} if made_plan.rows else {})
        tags, manifests = given_out(server, made)
        assert manifests.keys() == made.manifests() - gone_by(made_plan)
        undone = cleaner.undo(run)
        assert undone.counts() == ({"restored": made_plan.digests} if made_plan.rows else {})
        assert given_out(server, made) == (tags_of(made), held(made))
        assert freed_by(server) == 0
        run = cleaner.execute(made_plan)
        assert freed_by(server) == made_plan.reclaimable_bytes
        assert given_out(server, made) == (tags, manifests)
        check_undo_after_collection(server, made, cleaner.undo(run))


def check_undo_after_collection(server, made, undone):
    """See that what is whole on the disk came back, and of everything else not even a tag."""
    tags, manifests = given_out(server, made)
    disk = blobs_on_disk(server).keys()
    back = {(o.repository, o.digest) for o in undone.outcomes if o.outcome == "restored"}
    gone = {(o.repository, o.digest) for o in undone.outcomes if o.outcome == "blobs_gone"}
    assert len(back) + len(gone) == len(undone.outcomes)
    assert back == {pair for pair in back | gone if is_whole(made, *pair, disk)}
    assert manifests == {pair: raw for pair, raw in held(made).items() if pair not in gone}
    kept = {name: {t: d for t, d in mine.items() if (name, d) not in gone} for name, mine in tags_of(made).items()}
    assert tags == kept


def is_whole(made, repository, digest, disk):
    """Return whether all blobs that a manifest leads to are on the disk."""
    shelf = made.shelves[repository]
    return all(
        is_whole(made, repository, below, disk) if below in shelf.manifests else below in disk
        for below in shelf.needs(digest)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_registry_read_in_part_the_prediction_is_an_upper_bound(docker_registry_program, tmp_path, seed):
    made, random = made_up(seed), Random(seed)
    with pushed(made, tmp_path) as (server, door), Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        read = random.sample(list(made.shelves), random.randint(1, 2))
        made_plan = random_plan(collect(door, *read, progress=False), random).approve("Ada")
        assert made_plan.bounds == (("unread", "unlisted") if made_plan.rows else ())
        assert made_plan.bytes_text(made_plan.reclaimable_bytes).startswith("at most ") or not made_plan.rows
        known = {pair for pair in made.manifests() if pair[0] in read}
        assert made_plan.reclaimable_bytes == made.freed_bytes(gone_by(made_plan), known=known)
        cleaner.execute(made_plan)
        freed = freed_by(server)
        assert freed == made.freed_bytes(gone_by(made_plan)) <= made_plan.reclaimable_bytes


@pytest.mark.parametrize("seed", SEEDS)
def test_what_nothing_leads_to_keeps_its_layers_and_only_they_are_predicted_too_many(
    docker_registry_program, tmp_path, seed
):
    made, random = made_up(seed, unseen=True), Random(seed)
    with pushed(made, tmp_path) as (server, door), Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        assert freed_by(server) >= 500  # an upload that no manifest lists was garbage before any plan
        seen = made.manifests() - made.unseen()
        made_plan = random_plan(collect(door, progress=False), random).approve("Ada")
        assert made_plan.reclaimable_bytes == made.freed_bytes(gone_by(made_plan), known=seen)
        cleaner.execute(made_plan)
        assert freed_by(server) == made.freed_bytes(gone_by(made_plan)) <= made_plan.reclaimable_bytes
        _, manifests = given_out(server, made)
        assert made.unseen() <= manifests.keys()


def test_an_index_whose_child_is_missing_keeps_the_childs_manifest_in_another_repository(
    docker_registry_program, tmp_path
):
    made = made_up(0, repositories=0)
    image = lone_image(made, "a/whole")
    made.shelves["b/sparse"] = sparse = Shelf()
    sparse.blobs |= made.shelves["a/whole"].blobs
    sparse.manifests[image] = made.shelves["a/whole"].manifests[image]
    lone_index(made, "b/sparse", image)
    with pushed(made, tmp_path) as (server, door), Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        door.repository("b/sparse").delete_manifest(image)  # as careless cleaners do
        snapshot = collect(door, progress=False)
        made_plan = plan(snapshot, ["a/whole:image"], allow_empty=True).approve("Ada")
        assert cleaner.execute(made_plan).ok
        assert freed_by(server) == made_plan.reclaimable_bytes > 0


def lone_image(made, repository):
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry(OCI_CONFIG, b"{}"), "layers": []})
    shelf = made.shelves[repository] = Shelf()
    return add(shelf, OCI_MANIFEST, raw.encode(), "image", b"{}")


def lone_index(made, repository, child):
    shelf = made.shelves[repository]
    entries = [entry(*shelf.manifests[child])]
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    return add(shelf, OCI_INDEX, raw.encode(), "index")


def entry(media_type, raw):
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}


def add(shelf, media_type, raw, tag, *blobs):
    digest = str(Digest.of(raw))
    shelf.blobs |= {str(Digest.of(blob)): blob for blob in blobs}
    shelf.manifests[digest] = (media_type, raw)
    shelf.tags[tag] = digest
    return digest
