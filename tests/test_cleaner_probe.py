"""What a registry can do is known before anything is asked of it, and afterwards it is said how bytes come back."""

import pytest
from docker_registry import DockerRegistry
from hostile import Cut, Hostile, error, reply
from images import Pushed

from regaudit.cleaner import execution
from regaudit.cleaner.capabilities import probe
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.garbage import advice
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_INDEX
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox

APP = "team/app"
NONE_LISTED = reply(200, b'{"schemaVersion":2,"manifests":[]}', headers={"Content-Type": OCI_INDEX})


def executed(host, folder, **options):
    with Registry(host) as door, Cleaner(door, journal=folder / "journal.sqlite") as cleaner:
        place = Pushed(door, APP)
        for name in ("old", "keep"):
            place.image(name, name, f"{name}-alias")
        names = [f"{APP}:old", f"{APP}:old-alias"] if not options else [f"{APP}:old"]
        run = cleaner.execute(plan(collect(door, progress=False), names, **options).approve("Ada"))
        probed = [entry.data for entry in cleaner.journal.entries(run.id) if entry.event == "probed"]
        events = [entry.event for entry in cleaner.journal.entries(run.id)]
        cleaner.journal.verify()
        return run, probed, events, place.tags()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


@pytest.mark.real
def test_a_real_registry_with_deletion_is_probed_once_before_the_first_intent(docker_registry, tmp_path):
    run, probed, events, tags = executed(docker_registry.host, tmp_path)
    assert run.counts() == {"deleted": 1}
    assert (probed[0]["deletion"], probed[0]["tag_deletion"], probed[0]["referrers"]) == (True, False, False)
    assert events == ["planned", "started", "probed", "intent", "outcome", "finished"]
    assert set(tags) == {"keep", "keep-alias"}


@pytest.mark.real
def test_a_real_registry_without_deletion_ends_the_run_and_says_how_to_enable_it(docker_registry_program, tmp_path):
    with DockerRegistry(tmp_path / "registry", deletion=False) as server:
        run, probed, events, tags = executed(server.host, tmp_path)
    assert run.counts() == {"disabled": 1}
    assert run.stopped
    assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in run.outcomes[0].detail
    assert probed[0]["deletion"] is False
    assert "intent" not in events
    assert set(tags) == {"old", "old-alias", "keep", "keep-alias"}
    assert run.advice == ""


@pytest.mark.real
def test_a_real_registry_that_deletes_no_tags_is_asked_for_none(docker_registry, tmp_path):
    run, _, events, tags = executed(docker_registry.host, tmp_path, untag=True)
    assert run.counts() == {"refused_by_registry": 1}
    assert "intent" not in events
    assert "old" in tags


@pytest.mark.real
def test_after_a_real_deletion_the_command_of_its_version_is_said_with_its_danger(docker_registry, tmp_path):
    run, *_ = executed(docker_registry.host, tmp_path)
    assert "docker-registry 2.x" in run.advice
    assert "`docker-registry garbage-collect CONFIG.yml`" in run.advice
    assert "leave --delete-untagged out" in run.advice
    assert "garbage-collect" in run._repr_html_()


@pytest.mark.parametrize("referrers", [True, False])
def test_a_registry_that_deletes_tags_and_one_that_lists_referrers_are_known(tmp_path, referrers):
    with Sandbox(referrers=referrers) as sandbox:
        run, probed, _, tags = executed(sandbox.host, tmp_path, untag=True)
    assert run.counts() == {"deleted": 1}
    assert probed[0]["tag_deletion"] is True
    assert probed[0]["referrers"] is referrers
    assert "old" not in tags


ANSWERS = {
    "unknown manifest": (error(404, "MANIFEST_UNKNOWN"), True),
    "accepted": (reply(202), True),
    "405": (error(405, "UNSUPPORTED"), False),
    "405 of a proxy": (reply(405), False),
    "400 UNSUPPORTED": (error(400, "UNSUPPORTED"), False),
    "400 of another kind": (error(400, "DIGEST_INVALID"), None),
    "a 404 of a web server": (reply(404, b"<h1>nginx</h1>"), None),
    "no such repository": (error(404, "NAME_UNKNOWN"), None),
    "denied": (error(403, "DENIED"), None),
    "an error": (error(500, "UNKNOWN"), None),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_only_what_a_registry_says_of_deletion_itself_tells_whether_it_is_offered(case):
    answer, expected = ANSWERS[case]
    with Hostile() as hostile, Registry(hostile.host) as door:
        hostile.on("*", lambda seen: answer if seen.method == "DELETE" else reply(200, b"{}"))
        assert probe(door, APP).deletion is expected


def probed(answer, known=None, referrers=None):
    with Hostile() as hostile, Registry(hostile.host) as door:
        hostile.on("*", lambda seen: answer if seen.method == "DELETE" else referrers or reply(404))
        return probe(door, APP, known)


def test_what_was_asked_and_answered_is_told_with_the_headers_that_name_the_software_and_no_others():
    telling = {
        "Docker-Distribution-Api-Version": "registry/2.0",
        "Gitlab-Container-Registry-Version": "v4.0",
        "Server": "nginx",
        "X-Artifactory-Id": "abc",
        "X-Jfrog-Version": "Artifactory/7.9",
    }
    found = probed(error(404, "MANIFEST_UNKNOWN", **telling, Set_Cookie="session=secret")).to_dict()
    assert found["said"] == {"digest": "404 MANIFEST_UNKNOWN", "tag": "404 MANIFEST_UNKNOWN"}
    assert found["headers"] == {name.lower(): text for name, text in telling.items()}
    assert found["digest"].startswith("sha256:")
    assert found["tag"].startswith("regaudit-probe-")
    assert found["referrers"] is None


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_registry_that_accepts_what_cannot_be_there_deletes_manifests_and_tags(status):
    found = probed(reply(status, length=None if status == 204 else -1))
    assert (found.deletion, found.tag_deletion) == (True, True)
    assert found.said == {"digest": str(status), "tag": str(status)}
    assert found.headers == {}


def test_a_registry_that_takes_the_tag_for_a_broken_digest_deletes_no_tags():
    with Hostile() as hostile, Registry(hostile.host) as door:
        broken, unknown = error(400, "DIGEST_INVALID"), error(404, "MANIFEST_UNKNOWN")
        hostile.on("*", lambda seen: unknown if "sha256:" in seen.path else broken)
        found = probe(door, APP)
    assert (found.deletion, found.tag_deletion) == (True, False)
    assert found.said == {"digest": "404 MANIFEST_UNKNOWN", "tag": "400 DIGEST_INVALID"}


def test_where_no_answer_came_nothing_is_known_and_the_reason_is_told():
    found = probed(Cut(b"", 0))
    assert (found.deletion, found.tag_deletion, found.referrers) == (None, None, None)
    assert "ended before the answer" in found.said["digest"]
    assert set(found.said) == {"digest"}
    assert found.headers == {}


@pytest.mark.parametrize(("answer", "listed"), [(NONE_LISTED, True), (reply(404), False), (error(403, "DENIED"), None)])
def test_whether_referrers_are_listed_is_asked_of_a_manifest_that_is_there(answer, listed):
    known = Digest.of(b"known")
    assert probed(error(404, "MANIFEST_UNKNOWN"), known, answer).referrers is listed
    assert probed(error(403, "DENIED"), known, answer).referrers is listed
    assert probed(error(405, "UNSUPPORTED"), known, answer).referrers is None  # nothing will be deleted there


@pytest.mark.parametrize(
    ("host", "headers", "words"),
    [
        ("x.dkr.ecr.eu-west-1.amazonaws.com", {}, "Amazon ECR does so by itself"),
        ("ghcr.io", {}, "GitHub's registry does so by itself"),
        ("notghcr.io", {}, "documentation"),
        ("registry.example.com", {"gitlab-container-registry-version": "v4.0"}, "gitlab-ctl"),
        ("registry.example.com", {"server": "Nexus/3.70.1-02 (OSS)"}, "Compact blob store"),
        ("registry.example.com", {"x-jfrog-version": "Artifactory/7.9"}, "Artifactory"),
        ("registry.example.com:5000", {}, "documentation"),
    ],
)
def test_other_registries_are_told_by_their_names_and_headers(host, headers, words):
    assert words in advice(host, {"headers": headers})


@pytest.mark.parametrize(
    ("tags", "words"), [(True, "untagged signatures"), (False, "children of multi"), (None, "in 3.x")]
)
def test_versions_of_docker_registry_are_told_by_whether_a_tag_can_go_alone(tags, words):
    headers = {"docker-distribution-api-version": "registry/2.0"}
    assert words in advice("registry.example.com", {"headers": headers, "tag_deletion": tags})
