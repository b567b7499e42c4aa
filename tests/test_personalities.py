"""Whatever registry it is, the whole way leads to what is really there: audit, plan, approve, apply, verify, undo.

The same images are put into registries of every personality (`personalities.py`) and into a real docker-registry, through
the client. What is recorded is compared with what the registry then holds, byte for byte.
"""

import contextlib
import json
import re

import pytest
import requests
from click.testing import CliRunner
from docker_registry import DockerRegistry
from drivers import BULK_DRIVERS, through_bulk
from images import Pushed
from personalities import IDENTITY_TOKEN, PASSWORD, PERSONALITIES, USER, served

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.outcomes import GONE
from regaudit.cleaner.plan import plan
from regaudit.cli import main
from regaudit.client import bulk
from regaudit.client.registry import Registry
from regaudit.errors import Unsupported
from regaudit.inventory.collect import collect
from regaudit.manifest import ACCEPT_MANIFESTS, SCHEMA1_SIGNED
from regaudit.reference import Digest, attached_tag
from regaudit.sandbox.server import Sandbox

APP, OTHERS = "team/app", ("team/web", "team/zoo")
REAL = "docker-registry 2.8.2"
ACCEPT = {"Accept": ACCEPT_MANIFESTS}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Look a few times for what an accepted deletion leaves, and in a twentieth of a second."""
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.04)
    monkeypatch.setattr(execution, "_LOOK_EVERY", (0.01,))


@pytest.fixture(params=BULK_DRIVERS)
def driver(request, monkeypatch):
    """Do everything with one driver: what is read at once, and what is asked one by one."""
    chosen = bulk.choose_driver
    monkeypatch.setattr(bulk, "choose_driver", lambda name: chosen(name or request.param))
    if request.param == "libcurl":
        monkeypatch.setattr(Registry, "run", through_bulk)
    return request.param


class Images:
    """What is put into a registry: images to delete, images to keep, and one to delete that an index without a tag needs.

    Attributes
    ----------
    names : dict
        The digest of each image that is to go, by what it is called here.
    """

    def __init__(self, door):
        app = Pushed(door, APP)
        children = [app.image("amd64"), app.image("arm64")]
        old = app.index("old", children, "old", "old-alias")
        self.names = {
            "old": old,
            "amd64": children[0],
            "arm64": children[1],
            "sbom": app.referrer("sbom", old),
            "signature": app.image("signature", f"{attached_tag(Digest(old))}.sig"),
            "held": app.image("held", "held"),
            "plain": app.image("plain", "plain", "plain-alias"),
        }
        self.hidden = app.index("hidden", [self.names["held"]])
        self.kept = [app.image(f"keep-{n}", f"keep-{n}") for n in range(2)]
        for name in OTHERS:
            Pushed(door, name).image("other", "latest")
        fallback = app.tags().get(attached_tag(Digest(old)))
        if fallback is not None:  # where the client has to keep the list of referrers
            self.names["list"] = fallback
        self.everything = {*self.names.values(), self.hidden, *self.kept}


@pytest.fixture(scope="module")
def moulds():
    """Push the images once into a registry with a referrers interface and into one without: a copy takes a moment."""
    with contextlib.ExitStack() as opened:
        made = {}
        for referrers in (True, False):
            server = opened.enter_context(Sandbox(referrers=referrers))
            made[referrers] = server.store, Images(opened.enter_context(Registry(server.host)))
        yield made


def copy(store, other):
    """Put everything that one store holds into another one."""
    for name in store.repositories():
        for digest in store.blobs(name):
            other.put_blob(name, store.blob(name, digest), digest)
        for digest in store.digests(name):
            other.put_manifest(name, digest, *store.manifest(name, digest))
        for tag, digest in store.tags(name).items():
            other.set_tag(name, tag, digest)


class Scene:
    """A registry with the images, a door to it, and a cleaner."""

    def __init__(self, server, door, images, home):
        self.server, self.host, self.door = server, server.host, door
        self.names, self.hidden, self.kept, self.everything = (
            images.names,
            images.hidden,
            images.kept,
            images.everything,
        )
        self.cleaner = Cleaner(door, journal=home / "journal.sqlite")

    def truth(self):
        """Return all tags, and all manifests with their bytes, as the registry holds them."""
        if isinstance(self.server, Sandbox):
            store = self.server.store
            return {
                name: (store.tags(name), {d: store.manifest(name, d) for d in store.digests(name)})
                for name in store.repositories()
            }
        found = {}
        for name in (APP, *OTHERS):
            url = f"http://{self.host}/v2/{name}"
            tags = {tag: self._get(f"{url}/manifests/{tag}") for tag in requests.get(f"{url}/tags/list").json()["tags"]}
            digests = {
                *(r.headers["Docker-Content-Digest"] for r in tags.values()),
                *(self.everything if name == APP else ()),
            }
            there = {d: r.content for d in digests if (r := self._get(f"{url}/manifests/{d}")).status_code == 200}
            found[name] = ({tag: r.headers["Docker-Content-Digest"] for tag, r in tags.items()}, there)
        return found

    @staticmethod
    def _get(url):
        return requests.get(url, headers=ACCEPT)

    def plan(self):
        snapshot = collect(self.door, progress=False)
        assert snapshot.problems[snapshot.problems["blocking"]].empty
        tables = {name: {} for name in (APP, *OTHERS)}
        for row in snapshot.tags.itertuples():
            tables[row.repository][row.tag] = row.digest
        assert tables == {name: tags for name, (tags, _) in self.truth().items()}
        names = [f"{APP}:{tag}" for tag in ("old", "old-alias", "held", "plain", "plain-alias")]
        return plan(snapshot, names).approve("Ada")

    def words(self, run):
        """Return what became of each image by its name here."""
        called = {digest: name for name, digest in self.names.items()}
        return {called[outcome.digest]: outcome.outcome for outcome in run.outcomes}

    def detail(self, run, name):
        return next(outcome.detail for outcome in run.outcomes if outcome.digest == self.names[name])


LOGINS = {
    "Basic": {"username": USER, "password": PASSWORD},
    "Bearer": {"username": USER, "password": PASSWORD},
    "identity token": {},  # which docker has put into its configuration
}


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def scene(request, home, tmp_path, moulds):
    """Give the images in the registry that a test names."""
    name = request.param
    with contextlib.ExitStack() as opened:
        if name == REAL:
            request.getfixturevalue("docker_registry_program")
            server = opened.enter_context(DockerRegistry(tmp_path / "real"))
            door = opened.enter_context(Registry(server.host))
            images = Images(door)
        else:
            server = opened.enter_context(served(PERSONALITIES[name]))
            store, images = moulds[PERSONALITIES[name].options.get("referrers", True)]
            copy(store, server.store)
            docker_config(home, server.host)
            door = opened.enter_context(Registry(server.host, **LOGINS.get(name, {})))
        made = Scene(server, door, images, home)
        opened.callback(made.cleaner.close)
        yield made


def docker_config(home, host):
    """Write what `docker login` leaves of an identity token; only a registry that asks for a login gets to see it."""
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"identitytoken": IDENTITY_TOKEN}}}))


ALL = ("old", "amd64", "arm64", "sbom", "signature", "held", "plain")
GOES = dict.fromkeys(ALL, "deleted")
FALLBACK = {**GOES, "list": "deleted"}
# What becomes of each image, and whether the run is stopped. What a registry takes along nobody had to ask for.
ALONG = "deleted_unconfirmed"
RESULTS = {
    REAL: (FALLBACK, False),
    "distribution 2.8": (FALLBACK, False),
    "distribution 3.1.0": (FALLBACK, False),
    "distribution 3.1.2": (FALLBACK, False),
    "distribution 3.1.0, deletion off": ({"held": "disabled"}, True),
    "strict": (GOES, False),
    "eventual": (GOES, False),
    "deletion off": ({"held": "disabled"}, True),
    "liar": ({**dict.fromkeys(ALL, "skipped"), **dict.fromkeys(("old", "held", "plain"), "not_deleted")}, False),
    "zot": ({**GOES, "held": "refused_by_registry", "amd64": ALONG, "arm64": ALONG}, False),
    "Harbor": (
        {**GOES, "held": "refused_by_registry", **dict.fromkeys(("amd64", "arm64", "sbom", "signature"), ALONG)},
        False,
    ),
    "Artifact Registry": ({**GOES, "held": "not_deleted"}, False),
    "Azure": ({**GOES, "held": "refused_by_registry"}, False),
    "Docker Hub": ({"held": "denied"}, True),
    "Basic": (FALLBACK, False),
    "Bearer": (GOES, False),
    "identity token": (GOES, False),
}


ELSEWHERE = "delete that first, and apply the same plan again"
# What is said of the image that stays: the registry's own words, and what to do.
SAID = {
    "distribution 3.1.0, deletion off": (
        "the registry does not allow deletion",
        "REGISTRY_STORAGE_DELETE_ENABLED=true",
    ),
    "deletion off": ("the registry does not allow deletion", "REGISTRY_STORAGE_DELETE_ENABLED=true"),
    "liar": ("accepted (202)", "still there after"),
    "zot": ("405 DENIED requested access to the resource is denied", ELSEWHERE),
    "Harbor": ("412 VIOLATE_FOREIGN_KEY_CONSTRAINT the deleting artifact is referenced by others", ELSEWHERE),
    "Artifact Registry": ("400 GOOGLE_MANIFEST_DANGLING_PARENT_IMAGE Manifest is still referenced by", ELSEWHERE),
    "Azure": (
        "405 REGISTRY_DISALLOWED_OPERATION The operation is disallowed",
        "unlock it there, and apply the same plan again",
    ),
    "Docker Hub": ("403 DENIED requested access", "delete the tag there first"),
}


def everyone():
    return [pytest.param(name, marks=pytest.mark.real if name == REAL else ()) for name in RESULTS]


def test_every_personality_is_taken_the_whole_way():
    assert set(RESULTS) == {REAL, *PERSONALITIES}
    assert set(SAID) == {name for name, (words, _) in RESULTS.items() if words["held"] not in GONE}


@pytest.mark.parametrize("scene", everyone(), indirect=True)
def test_what_is_recorded_is_what_is_there_all_the_way_there_and_back(scene, driver, request):
    name = request.node.callspec.params["scene"]
    expected, stopped = RESULTS[name]
    before, made = scene.truth(), scene.plan()
    run = scene.cleaner.execute(made)
    after = scene.truth()
    assert scene.words(run) == expected, run.frame()[["digest", "outcome", "detail"]].to_string()
    assert run.stopped is stopped
    for outcome in run.outcomes:
        assert (outcome.outcome in GONE) == (outcome.digest not in after[APP][1])
    assert all(part in scene.detail(run, "held") for part in SAID.get(name, ())), scene.detail(run, "held")
    reviewed = {row.digest for row in made.rows}
    assert before[APP][1].keys() - after[APP][1].keys() <= reviewed
    lost = before[APP][0].items() - after[APP][0].items()
    assert {digest for _, digest in lost} <= reviewed
    assert {name: held for name, held in after.items() if name != APP} == {n: h for n, h in before.items() if n != APP}
    there = {row.key for row in made.rows if row.digest in after[APP][1]}
    assert set(scene.cleaner.verify(run).back) == there
    undone = scene.cleaner.undo(run)
    assert undone.ok, undone.frame()[["digest", "outcome", "detail"]].to_string()
    assert scene.truth() == before
    scene.cleaner.journal.verify()


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["zot", "Harbor"], indirect=True)
def test_once_what_held_it_is_gone_the_same_plan_goes_on_with_what_was_refused(scene):
    made = scene.plan()
    scene.cleaner.execute(made)
    scene.server.store.delete_manifest(APP, scene.hidden)
    again = scene.cleaner.execute(made)
    assert again.ok
    assert scene.words(again)["held"] == "deleted"
    assert set(again.counts()) == {"deleted", "deleted_before"}


@pytest.mark.parametrize("scene", ["Artifact Registry"], indirect=True)
def test_where_tags_must_go_first_only_reviewed_ones_do_and_a_manifest_that_stays_gets_them_back(scene):
    before, made = scene.truth(), scene.plan()
    run = scene.cleaner.execute(made)
    assert "without its tags (held), which undo sets again" in scene.detail(run, "held")
    asked = {
        path.rpartition("/")[2] for method, path, status in scene.server.requests if (method, status) == ("DELETE", 202)
    }
    reviewed = {tag for row in made.rows for tag in row.tags} | {row.digest for row in made.rows}
    assert asked <= reviewed
    scene.cleaner.undo(run, only=f"{APP}:held")
    assert scene.truth()[APP][0]["held"] == before[APP][0]["held"]


@pytest.mark.parametrize("scene", ["Artifact Registry"], indirect=True)
def test_a_tag_that_is_moved_while_its_manifest_waits_for_it_stays_where_it_was_moved(scene, monkeypatch):
    made, store = scene.plan(), scene.server.store
    remove, keep = store.delete_manifest, scene.kept[0]

    def moving(repository, reference):
        if reference == "plain":
            store.set_tag(APP, "plain-alias", keep)
        return remove(repository, reference)

    monkeypatch.setattr(store, "delete_manifest", moving)
    run = scene.cleaner.execute(made)
    assert scene.words(run)["plain"] == "not_deleted"
    assert "tag_moved: plain-alias" in scene.detail(run, "plain")
    assert store.tags(APP)["plain-alias"] == keep
    assert scene.names["plain"] in store.digests(APP)


@pytest.mark.parametrize("scene", ["Harbor"], indirect=True)
@pytest.mark.parametrize("resumed", [False, True])
def test_what_went_along_with_its_index_comes_back_also_after_a_run_that_was_cut_off(scene, monkeypatch, resumed):
    before, made = scene.truth(), scene.plan()
    conclude = execution.Execution._conclude

    def cut_off(self, row, word, *rest):
        conclude(self, row, word, *rest)
        if row.digest == scene.names["old"]:
            raise SystemExit
        return word

    with monkeypatch.context() as patch:
        patch.setattr(execution.Execution, "_conclude", cut_off)
        with pytest.raises(SystemExit):
            scene.cleaner.execute(made)
    cut = scene.cleaner.last_run(made)
    assert scene.names["amd64"] not in scene.truth()[APP][1]
    if resumed:
        again = scene.cleaner.execute(made)
        assert scene.words(again)["amd64"] == "deleted_unconfirmed"
        assert scene.cleaner.undo(again).ok
    scene.cleaner.undo(cut)
    after = scene.truth()
    needed = {scene.names[name] for name in ("old", "amd64", "arm64")}
    assert needed <= after[APP][1].keys()
    assert {tag: after[APP][0][tag] for tag in ("old", "old-alias")} == dict.fromkeys(
        ("old", "old-alias"), scene.names["old"]
    )
    if resumed:
        assert after == before


# -- on the wire -----------------------------------------------------------------------------

ABSENT = "sha256:" + "0" * 64
# What each source says, as a request: personality, method, path, status, code.
WIRE = [
    ("distribution 2.8", "GET", "/v2/_catalog?n=1001", 400, "PAGINATION_NUMBER_INVALID"),
    ("distribution 2.8", "GET", f"/v2/{APP}/tags/list?n=1001", 200, None),
    ("distribution 2.8", "DELETE", f"/v2/{APP}/manifests/held", 400, "DIGEST_INVALID"),
    ("distribution 2.8", "GET", f"/v2/{APP}/referrers/{ABSENT}", 404, None),
    ("distribution 3.1.0", "GET", "/v2/_catalog?n=3", 400, "PAGINATION_NUMBER_INVALID"),
    ("distribution 3.1.0", "GET", f"/v2/{APP}/tags/list?n=4", 400, "PAGINATION_NUMBER_INVALID"),
    ("distribution 3.1.0", "DELETE", f"/v2/{APP}/manifests/held", 202, None),
    ("distribution 3.1.0", "DELETE", f"/v2/{APP}/manifests/none", 404, "MANIFEST_UNKNOWN"),
    ("distribution 3.1.2", "GET", f"/v2/{APP}/tags/list?n=4", 200, None),
    ("distribution 3.1.2", "GET", f"/v2/{APP}/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
    ("distribution 3.1.2", "GET", f"/v2/{APP}/referrers/{ABSENT}", 404, None),
    ("distribution 3.1.2", "PUT", f"/v2/{APP}/manifests/one", 400, "MANIFEST_INVALID"),
    ("distribution 3.1.0, deletion off", "DELETE", f"/v2/{APP}/manifests/{ABSENT}", 405, "UNSUPPORTED"),
    ("distribution 3.1.0, deletion off", "DELETE", f"/v2/{APP}/manifests/held", 202, None),
    ("strict", "GET", f"/v2/{APP}/tags/list?n=101", 400, "PAGINATION_NUMBER_INVALID"),
    ("strict", "GET", f"/v2/{APP}/tags/list?sort=updated", 400, "UNSUPPORTED"),
    ("strict", "GET", f"/v2/{APP}/referrers/{ABSENT}", 200, None),
    ("strict", "DELETE", f"/v2/{APP}/manifests/{ABSENT}", 404, "MANIFEST_UNKNOWN"),
    ("Harbor", "DELETE", f"/v2/{APP}/manifests/held", 400, "UNSUPPORTED"),
    ("Docker Hub", "DELETE", f"/v2/{APP}/manifests/held", 405, "UNSUPPORTED"),
]


def wire(host, method, path):
    """Return status and code of a request; what is put is one of Docker's first manifests."""
    data, headers = (b"{}", {"Content-Type": SCHEMA1_SIGNED}) if method == "PUT" else (None, ACCEPT)
    answer = requests.request(method, f"http://{host}{path}", data=data, headers=headers)
    typed = answer.headers.get("Content-Type", "").startswith("application/json")
    errors = answer.json().get("errors") if typed and answer.content else None
    return answer.status_code, errors[0]["code"] if errors else None


@pytest.mark.parametrize("name", sorted({name for name, *_ in WIRE}))
def test_a_personality_answers_as_its_source_says(name):
    with served(PERSONALITIES[name]) as server, Registry(server.host) as door:
        Pushed(door, APP).image("held", "held")
        for _, method, path, *expected in (row for row in WIRE if row[0] == name):
            assert wire(server.host, method, path) == tuple(expected), path


@pytest.mark.real
def test_the_real_docker_registry_answers_as_its_personality(docker_registry):
    with Registry(docker_registry.host) as door:
        Pushed(door, APP).image("held", "held")
    for _, method, path, *expected in (row for row in WIRE if row[0] == "distribution 2.8"):
        assert wire(docker_registry.host, method, path) == tuple(expected), path


@pytest.mark.parametrize("name", ["distribution 2.8", "distribution 3.1.2", "strict"])
def test_an_index_without_its_children_and_a_reader_who_knows_no_oci_types_are_refused(name):
    with served(PERSONALITIES[name]) as server, Registry(server.host) as door:
        app = Pushed(door, APP)
        child = app.image("child")
        top = app.index("top", [child], "top")
        assert wire(server.host, "GET", f"/v2/{APP}/manifests/{top}") == (200, None)
        bare = requests.get(f"http://{server.host}/v2/{APP}/manifests/top")
        assert (bare.status_code, bare.json()["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
        raw = server.store.manifest(APP, top)[1]
        server.store.delete_manifest(APP, child)
        refused = requests.put(
            f"http://{server.host}/v2/{APP}/manifests/top",
            data=raw,
            headers={"Content-Type": "application/vnd.oci.image.index.v1+json"},
        )
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")


# -- v1, and the command line ----------------------------------------------------------------


def test_of_a_v1_registry_everything_is_read_and_nothing_can_be_planned_or_deleted(driver):
    with Sandbox(v1="only") as server, Registry(server.host) as door:
        image = server.v1.put_image(APP, b"layer", created="2014-01-01T00:00:00Z")
        server.v1.set_tag(APP, "old", image)
        snapshot = collect(door, progress=False)
        assert list(snapshot.tags["tag"]) == ["old"]
        made = plan(snapshot, [f"{APP}:old"])
        assert (made.rows, len(made.refused)) == ((), 1)
        with pytest.raises(Unsupported):
            door.repository(APP).manifest("old")
        assert not [request for request in server.requests if request[0] == "DELETE"]


@pytest.mark.parametrize("scene", ["zot", "Artifact Registry", "deletion off", "liar"], indirect=True)
def test_on_the_command_line_a_refusal_ends_with_1_and_a_line_that_says_what_to_do(
    scene, tmp_path, monkeypatch, request
):
    monkeypatch.chdir(tmp_path)

    def shell(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    name = request.node.callspec.params["scene"]
    before = scene.truth()
    assert shell("audit", scene.host, "--out", "audit", "-q").exit_code == 0
    scene.plan().save(tmp_path / "plan.json")
    assert shell("approve", "plan.json", "--by", "Ada").exit_code == 0
    applied = shell("apply", "plan.json", "--journal", "run.sqlite")
    assert applied.exit_code == 1
    word = RESULTS[name][0]["held"]
    (line,) = [line for line in applied.output.splitlines() if line.startswith(f"{word:<20} {APP} held")]
    assert all(part in line for part in SAID[name]), line
    assert "not everything came to what was asked" in applied.output
    run = re.search(r"^delete (\S+):", applied.output, re.MULTILINE)[1]
    undone = shell("undo", run, "--journal", "run.sqlite")
    assert undone.exit_code == 0, undone.output
    assert scene.truth() == before
