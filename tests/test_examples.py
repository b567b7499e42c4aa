"""The examples: each does what it says against the sandbox, those for v2 also against a real registry.

Most run in this process, which is quick; a handful run as a user runs them, as programs.
"""

import csv
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from docker_registry import DockerRegistry
from test_real_client import dump, push_tiny, tiny_image

from regaudit.client.registry import Registry
from regaudit.manifest import OCI_MANIFEST
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox

FOLDER = Path(__file__).parent.parent / "examples"
SCRIPTS = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in sorted(FOLDER.rglob("*.py"))]


def command(name):
    spec = importlib.util.spec_from_file_location(f"example_{name.replace('/', '_')}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name.rpartition("/")[2])


def run(name, *arguments, stdin=None):
    return CliRunner().invoke(command(name), [str(argument) for argument in arguments], input=stdin)


def result(name, *arguments, stdin=None):
    """Return what an example printed, having checked that it ended well and printed nothing else."""
    done = run(name, *arguments, stdin=stdin)
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def program(name, *arguments, folder):
    line = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=folder)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# -- all of them ------------------------------------------------------------------------------


def test_every_script_of_the_node_client_has_a_successor():
    assert set(SCRIPTS) == {
        "csv_report",
        *("parse_index", "parse_repo", "parse_repo_and_ref", "parse_repo_and_tag", "ping", "login"),
        *("v2/ping", "v2/login", "v2/list_tags", "v2/list_repositories", "v2/get_manifest", "v2/head_blob"),
        *("v2/download_blob", "v2/download_img", "v2/upload_blob", "v2/put_manifest", "v2/delete_manifest"),
        *("v1/ping", "v1/ping_index", "v1/search", "v1/list_repo_imgs", "v1/list_repo_tags", "v1/get_img_id"),
        *("v1/get_img_ancestry", "v1/get_img_json", "v1/download_img_layer", "v1/login"),
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_is_short_and_the_readme_lists_it(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 60
    assert f"]({name}.py)" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_explains_itself_and_has_the_common_options(name):
    help_text = run(name, "-h").stdout
    assert {"--verbose", "--log-json"} <= set(re.findall(r"--[a-z-]+", help_text))
    if "parse" not in name:
        assert {"--username", "--password", "--insecure"} <= set(re.findall(r"--[a-z-]+", help_text))
    assert command(name).help.split(".")[0] in " ".join(help_text.split())


@pytest.mark.parametrize("name", [name for name in SCRIPTS if not name.startswith("parse")])
def test_a_host_that_does_not_answer_is_one_sentence_and_status_1(name):
    Path("f").write_bytes(tiny_image()[2])
    host = "127.0.0.1:1"
    alone = {"csv_report", "login", "v2/login", "v1/login", "v1/ping_index", "v2/list_repositories"}
    digest = f"@{Digest.of(b'')}" if name in {"v2/head_blob", "v2/download_blob", "v2/delete_manifest"} else ""
    more = ["f"] if name in {"v2/upload_blob", "v2/put_manifest"} else []
    user = ["-u", "ada", "-p", "canary"] if "login" in name else []
    done = run(name, *user, host if name in alone else f"{host}/team/app{digest}", *more)
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.count("\n") == 1
    assert host in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "parse_index"])
def test_a_name_that_is_none_is_status_2(name):
    Path("f").write_bytes(tiny_image()[2])
    more = ["f"] if name in {"v2/upload_blob", "v2/put_manifest"} else []
    done = run(name, "ftp://no/registry", *more)
    assert (done.exit_code, done.stdout) == (2, ""), done.output


@pytest.mark.parametrize("name", ["v2/head_blob", "v2/download_blob", "v2/delete_manifest"])
def test_what_does_not_name_a_digest_is_status_2(name):
    assert run(name, "quay.io/team/app").exit_code == 2


# -- names ------------------------------------------------------------------------------------


def test_names_are_shown_with_the_fields_of_the_node_client():
    assert result("parse_index") == {"name": "docker.io", "official": True}
    assert result("parse_index", "https://quay.io/")["scheme"] == "https"
    assert result("parse_repo", "mongo")["canonicalName"] == "docker.io/mongo"
    assert result("parse_repo", "mongo", "--default-index", "quay.io")["canonicalName"] == "quay.io/mongo"
    for name in ("parse_repo_and_ref", "parse_repo_and_tag"):
        assert result(name, "mongo")["tag"] == "latest"
        assert result(name, "quay.io/app:1", "-v")["localName"] == "quay.io/app"


# -- v2, at the sandbox and at a real registry -------------------------------------------------


@pytest.fixture(scope="module", params=["sandbox", pytest.param("docker-registry", marks=pytest.mark.real)])
def place(request, tmp_path_factory):
    """Give the host of a registry that holds one tiny image, team/app:1.0."""
    if request.param == "sandbox":
        server = Sandbox()
    else:
        request.getfixturevalue("docker_registry_program")
        server = DockerRegistry(tmp_path_factory.mktemp("docker-registry"))
    with server, Registry(server.host) as registry:
        push_tiny(registry.repository("team/app"), "1.0")
        yield server.host


def test_v2_ping_says_what_the_registry_answered(place):
    for name in ("ping", "v2/ping"):
        found = result(name, f"{place}/team/app")
        assert found["status"] == 200
        assert found["headers"]["docker-distribution-api-version"] == "registry/2.0"
    assert result("ping", f"{place}/team/app")["version"] == "v2"


def test_v2_lists_repositories_and_tags(place):
    assert "team/app" in result("v2/list_repositories", place)["repositories"]
    assert result("v2/list_tags", f"{place}/team/app") == {"name": "team/app", "tags": ["1.0"]}


def test_v2_shows_a_manifest_and_keeps_its_bytes(place):
    _, _, raw = tiny_image()
    for name in ("team/app:1.0", f"team/app@{Digest.of(raw)}"):
        assert result("v2/get_manifest", f"{place}/{name}", "-o", "manifest.json") == json.loads(raw)
        assert Path("manifest.json").read_bytes() == raw


def test_v2_shows_and_downloads_a_blob(place):
    layer, _, _ = tiny_image()
    digest = Digest.of(layer)
    head = result("v2/head_blob", f"{place}/team/app@{digest}")
    assert (head["digest"], head["size"]) == (digest, len(layer))
    assert head["responses"][-1]["headers"]["content-length"] == str(len(layer))
    path = f"{digest.encoded[:12]}.blob"
    assert result("v2/download_blob", f"{place}/team/app@{digest}") == {
        "digest": digest,
        "size": len(layer),
        "path": path,
    }
    assert Path(path).read_bytes() == layer


def test_v2_downloads_an_image_as_an_oci_layout(place):
    layer, _, raw = tiny_image()
    found = result("v2/download_img", f"{place}/team/app:1.0")
    assert (found["digest"], found["path"]) == (Digest.of(raw), "team-app")
    assert Path("team-app/blobs/sha256", Digest.of(layer).encoded).read_bytes() == layer
    assert json.loads(Path("team-app/oci-layout").read_text())["imageLayoutVersion"] == "1.0.0"


@pytest.mark.parametrize("options", [[], ["--chunk-bytes", "7"], ["--mount-from", "team/app"]])
def test_v2_uploads_what_a_manifest_needs_then_the_manifest_and_deletes_it(place, unique_name, options):
    layer, config, _ = tiny_image()
    raw = dump({**json.loads(tiny_image()[2]), "annotations": {"for": unique_name("x")}})
    name = f"{place}/{unique_name('app')}"
    for file, data in (("layer", layer), ("config", config), ("manifest", raw)):
        Path(file).write_bytes(data)
    for file, data in (("layer", layer), ("config", config)):
        assert result("v2/upload_blob", *options, name, file) == {"digest": Digest.of(data), "size": len(data)}
    stored = {"digest": Digest.of(raw), "mediaType": OCI_MANIFEST}
    assert result("v2/put_manifest", f"{name}:2.0", "manifest") == stored
    assert result("v2/put_manifest", f"{name}@{Digest.of(raw)}", "manifest") == stored
    assert result("v2/delete_manifest", f"{name}@{Digest.of(raw)}") == {"digest": Digest.of(raw), "status": 202}
    assert run("v2/get_manifest", f"{name}:2.0").exit_code == 1


def test_v2_deletes_a_tag_alone_or_says_that_the_registry_does_not(place, unique_name, request):
    with Registry(place) as registry:
        push_tiny(registry.repository(unique_name("app")), "1", "2")
    name = f"{place}/{unique_name('app')}"
    if "docker-registry" in request.node.name:
        done = run("v2/delete_manifest", f"{name}:1")
        assert done.exit_code == 1
        assert "does not delete a tag alone" in done.stderr
    else:
        assert result("v2/delete_manifest", f"{name}:1") == {"tag": "1", "status": 202}
        assert result("v2/list_tags", name)["tags"] == ["2"]


def test_v2_a_repository_that_is_not_there_is_status_1(place):
    done = run("v2/list_tags", f"{place}/no/such")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "not found" in done.stderr


# -- logging in -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["basic", "bearer"])
def locked(request):
    """Give a registry that only Ada may use."""
    with Sandbox(sample=True, users={"ada": "canary-right"}, auth=request.param, v1=True) as server:
        server.kind = request.param
        yield server


@pytest.mark.parametrize("name", ["login", "v2/login"])
def test_a_login_says_how_and_who_and_never_the_secret(locked, name):
    found = result(name, "-u", "ada", "-p", "canary-right", locked.host)
    assert found["status"] == "Login Succeeded"
    assert found["authInfo"] == {"type": locked.kind, "username": "ada"}


def test_a_login_says_what_was_granted_where_that_can_be_known(locked):
    scope = "repository:web/frontend:pull"
    found = result("v2/login", "-u", "ada", "-p", "canary-right", "--scope", scope, locked.host)
    assert (found["granted"], found["missing"]) == (None, None)  # the sandbox's tokens tell nobody else


@pytest.mark.parametrize("name", ["login", "v2/login", "v1/login"])
def test_a_wrong_password_is_status_1_and_not_shown(locked, name):
    done = run(name, "-u", "ada", "-p", "canary-wrong", "-vv", locked.host)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "not accepted" in done.stderr.splitlines()[-1]
    assert "canary" not in done.stderr


def test_a_registry_that_wants_no_login_says_so(sample_sandbox):
    assert result("v2/login", sample_sandbox.host)["authInfo"] == {}


# -- v1 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old():
    """Give a registry that speaks v1 alone, with web/frontend in it."""
    with Sandbox(sample=True, v1="only") as server:
        yield server


def test_v1_ping_says_what_the_registry_answered(old):
    for name, argument in (("v1/ping", "web/frontend"), ("ping", "web/frontend"), ("v1/ping_index", "")):
        found = result(name, f"{old.host}/{argument}")
        assert (found["status"], found["body"]) == (200, "true")
    assert result("ping", f"{old.host}/web/frontend")["version"] == "v1"


def test_v1_search_finds_names(old):
    found = result("v1/search", f"{old.host}/frontend")
    assert (found["query"], found["num_results"]) == ("frontend", 1)
    assert [hit["name"] for hit in found["results"]] == ["web/frontend"]


def test_v1_lists_images_and_tags(old):
    assert result("v1/list_repo_tags", f"{old.host}/web/frontend") == old.v1.tags["web/frontend"]
    listed = result("v1/list_repo_imgs", f"{old.host}/web/frontend")
    assert {image["id"] for image in listed} == set(old.v1.listed["web/frontend"])


def test_v1_shows_the_image_of_a_tag_or_of_an_id(old):
    image = old.v1.tags["web/frontend"]["latest"]
    assert result("v1/get_img_id", f"{old.host}/web/frontend") == image
    for arguments in ([f"{old.host}/web/frontend:latest"], [f"{old.host}/web/frontend", image]):
        assert result("v1/get_img_ancestry", *arguments) == old.v1.ancestry(image)
        assert result("v1/get_img_json", *arguments)["id"] == image


def test_v1_downloads_a_layer(old):
    image = old.v1.tags["web/frontend"]["latest"]
    found = result("v1/download_img_layer", f"{old.host}/web/frontend:latest")
    layer = old.v1.images[image].layer
    assert found == {"imgId": image, "size": len(layer), "verifiedBy": "checksum", "path": f"{image[:12]}.layer"}
    assert Path(found["path"]).read_bytes() == layer


@pytest.mark.parametrize("name", ["login", "v1/login"])
def test_v1_login_says_whether_user_name_and_password_are_right(name):
    with Sandbox(users={"ada": "right"}, v1="only") as server:
        assert result(name, "-u", "ada", "-p", "right", server.host) == {"status": "Login Succeeded"}


# -- as programs ------------------------------------------------------------------------------


def test_a_program_prints_its_result_alone_on_stdout_and_its_log_on_stderr(sample_sandbox, tmp_path):
    done = program("v2/list_tags", "-v", f"{sample_sandbox.host}/web/frontend", folder=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["name"] == "web/frontend"
    assert len(done.stderr.splitlines()) == 2


def test_a_program_ends_in_one_sentence(old, tmp_path):
    wrong = program("v1/get_img_id", f"{old.host}/web/frontend:no-such", folder=tmp_path)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
    assert program("parse_repo", "UPPER", folder=tmp_path).returncode == 2
    assert "Usage: parse_index.py" in program("parse_index", "-h", folder=tmp_path).stdout


def test_the_csv_report_lists_every_tag(sample_sandbox, tmp_path):
    done = program("csv_report", sample_sandbox.host, "shop/**", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "contents" / "tags.csv").open(encoding="utf-8", newline="") as file:
        found = {(row["repository"], row["tag"]) for row in csv.DictReader(file)}
    names = [name for name in sample_sandbox.store.repositories() if name.startswith("shop/")]
    assert found == {(name, tag) for name in names for tag in sample_sandbox.store.tags(name)}


def test_the_csv_report_says_as_json_what_it_wrote(sample_sandbox):
    said = result("csv_report", sample_sandbox.host, "shop/**", "--out", "there")
    assert all(Path(name).is_file() for name in said["files"])
    assert said["tags"] > said["stale"] > 0


@pytest.mark.parametrize(("options", "status"), [(["--older-than", "soon"], 2), (["--out", "x" * 300], 1)])
def test_the_csv_report_ends_in_one_sentence(sample_sandbox, options, status):
    done = run("csv_report", sample_sandbox.host, "web/*", *options)
    assert (done.exit_code, done.stdout) == (status, "")
    assert done.stderr.startswith("csv_report: ")
    assert done.stderr.count("\n") == 1


def test_the_csv_report_of_what_cannot_be_read_is_status_1():
    with Sandbox(users={"ada": "right"}) as locked:
        done = run("csv_report", locked.host)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("csv_report: nothing could be read: ")
    assert not Path("contents").exists()


@pytest.mark.parametrize("place", ["folder", "missing/file"])
def test_a_download_to_where_no_file_can_be_names_that_place_and_fetches_nothing(sample_sandbox, place):
    Path("folder").mkdir()
    before = len(sample_sandbox.requests)
    done = run("v2/download_blob", f"{sample_sandbox.host}/web/frontend@{Digest.of(b'')}", "-o", place)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"download_blob: {place.partition('/')[0]} is ")
    assert len(sample_sandbox.requests) == before


def test_the_body_of_a_ping_is_as_it_was_sent(tmp_path):
    with DockerRegistry(tmp_path / "locked", login=True) as locked:
        assert json.loads(result("v2/ping", f"{locked.host}/a")["body"])["errors"][0]["code"] == "UNAUTHORIZED"


def test_a_digest_is_nothing_that_v1_can_look_up():
    done = run("v1/get_img_id", f"127.0.0.1:1/web/frontend@{Digest.of(b'')}")
    assert done.exit_code == 2
    assert done.stderr.endswith("has a digest, which v1 does not know: write REPO:TAG\n")


def test_a_login_of_v1_to_a_registry_without_it_says_so(sample_sandbox):
    done = run("v1/login", sample_sandbox.host, "-u", "ada", "-p", "x")
    assert done.exit_code == 1
    assert "it has no login of the v1 interface" in done.stderr


def test_a_registry_alone_where_a_repository_is_wanted_is_told_so():
    done = run("ping", "127.0.0.1:5000")
    assert done.exit_code == 2
    assert "HOST:PORT/REPOSITORY" in done.stderr
