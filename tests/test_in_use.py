"""What is in use is read in full, or an error says where it cannot be."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regaudit.analysis import in_use
from regaudit.analysis.in_use import InUse, references_in_use
from regaudit.errors import InvalidReference, UsageError

A, B = "a" * 64, "b" * 64


@pytest.fixture
def write(tmp_path):
    def written(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def texts(path):
    return sorted(str(used.reference or used.digest) for used in references_in_use(path))


def test_a_plain_list_has_a_name_on_each_line(write):
    path = write("list", "\ufeff# comment\r\nreg.io/team/app:1  # why\r\n\r\nreg.io/team/app:1\r\nmongo\r\n")
    assert texts(path) == ["docker.io/library/mongo:latest", "reg.io/team/app:1"]
    assert references_in_use(path)[0].where.endswith("list, line 2")


def pods():
    status = {
        "containerStatuses": [{"image": f"sha256:{A}", "imageID": f"docker-pullable://reg.io/main@sha256:{B}"}],
        "initContainerStatuses": [{"image": "reg.io/first:1", "imageID": ""}],
    }
    spec = {
        "containers": [{"image": "reg.io/main:1"}],
        "initContainers": [{"image": "reg.io/first:1"}],
        "ephemeralContainers": [{"image": "reg.io/debug"}],
        "volumes": [{"image": {"reference": "reg.io/model:7", "pullPolicy": "Always"}}],
    }
    return {"kind": "List", "items": [{"kind": "Pod", "spec": spec, "status": status}]}


EXPECTED = sorted(
    [
        "reg.io/main:1",
        "reg.io/first:1",
        "reg.io/debug:latest",
        "reg.io/model:7",
        f"reg.io/main@sha256:{B}",
        f"sha256:{A}",
    ]
)


def test_all_containers_of_a_cluster_count_and_what_runs_beside_what_was_asked_for(write):
    assert texts(write("pods", json.dumps(pods()))) == EXPECTED


def test_the_same_in_yaml(write):
    yaml = pytest.importorskip("yaml")
    assert texts(write("pods.yaml", yaml.safe_dump(pods()))) == EXPECTED


def test_a_compose_file_with_anchors_and_several_documents(write):
    content = """
x-base: &base {restart: always, image: reg.io/base:1}
services:
  web:
    <<: *base
    build: .
    image: &name reg.io/web:2
  copy: {image: *name}
  nothing: {image: ~}
other: !Ref tagged
? [a, b]
: image
---
image: {registry: reg.io, repository: chart/app, tag: "1.10"}
"""
    assert texts(write("compose.yml", content)) == ["reg.io/base:1", "reg.io/chart/app:1.10", "reg.io/web:2"]


def test_the_fields_of_a_merged_image_are_joined(write):
    content = "a: &a {image: {repository: reg.io/x, tag: 1}}\nimage:\n  <<: {repository: reg.io/y, tag: 1}\n  tag: 2\n"
    assert texts(write("values.yaml", content)) == ["reg.io/x:1", "reg.io/y:2"]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("list", "reg.io/a:1\nA B\n", "line 2"),
        ("list", "reg.io/a:-x\n", "line 1"),
        ("pods.json", '{"items": [{"spec": {"image": "Not Valid"}}]}', r"items\[0\]\.spec\.image"),
        ("compose.yaml", "services:\n  a:\n    image: ${HOST}/app:${TAG}\n", "line 3.*variable"),
        ("values.yaml", "app:\n  image:\n    tag: 1\n", "line .*repository"),
    ],
)
def test_a_name_that_cannot_be_read_says_where_it_stands(write, name, content, where):
    with pytest.raises(InvalidReference, match=f"{name}.*{where}"):
        references_in_use(write(name, content))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty", "# nothing\n", "names no image"),
        ("pods.json", '{"kind": "List", "items": []}', "names no image"),
        ("pods.json", '{"a": 1, "a": 2}', "key twice"),
        ("pods.json", '{"a": ', "not JSON"),
        ("deep.json", "[" * 500 + "]" * 500, "nested"),
        ("bad.yaml", "a: [\n", "not YAML"),
        ("bad.yaml", "a: b: c\n", "line 1 is not YAML"),
        ("control.yaml", "a: \x07\n", "not YAML"),
        ("deep.yaml", "[" * 100_000, "levels|nesting"),
        ("deep.yaml", "".join(" " * depth + "a:\n" for depth in range(300)), "levels|nesting"),
        ("bytes", b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(write, name, content, said):
    with pytest.raises(UsageError, match=said):
        references_in_use(write(name, content))


def test_a_file_that_is_all_aliases_is_refused_and_one_that_multiplies_is_harmless(write, monkeypatch):
    lines = ["a0: &a0 {image: reg.io/x:1}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 60)]
    assert texts(write("bomb.yaml", "\n".join(lines))) == ["reg.io/x:1"]
    merged = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 60)]
    assert texts(write("merge.yaml", "\n".join([lines[0], *merged]))) == ["reg.io/x:1"]
    monkeypatch.setattr(in_use, "_MOST_ALIASES", 10)
    with pytest.raises(UsageError, match="more than 10 aliases"):
        references_in_use(write("bomb.yaml", "\n".join(lines)))


def test_nothing_in_yaml_makes_an_object(write):
    path = write("evil.yaml", "image: !!python/object/apply:os.system ['false']\nb: {image: reg.io/x:1}\n")
    assert texts(path) == ["reg.io/x:1"]


@pytest.mark.parametrize("name", ["list", "pods.yaml"])
def test_a_file_that_is_too_large_is_refused_unread(write, monkeypatch, name):
    monkeypatch.setattr(in_use, "_LARGEST_FILE" if name == "list" else "_LARGEST_YAML", 10)
    with pytest.raises(UsageError, match="too large"):
        references_in_use(write(name, "image: reg.io/x:1"))


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.txt"):
        references_in_use(tmp_path / "gone.txt")


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_an_error(text):
    with contextlib.suppress(InvalidReference):
        used = InUse.parse(text, "here, line 1")
        assert used.digest or used.reference
