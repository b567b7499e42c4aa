"""A policy is read strictly, and says on which line it cannot be, and what to write."""

import re
import tomllib
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_retention import policies

import regaudit as ra
from regaudit.analysis.policy import Expire, Keep, Policy, Section, StandingApproval, duration_text
from regaudit.cleaner.plan import plan
from regaudit.errors import UsageError
from regaudit.text import parse_duration

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples" / "policies").glob("*.toml"))
PAGE = (ROOT / "docs" / "policies.md").read_text("utf-8")
BEGIN = "version = 1\n\n[[sections]]\nrepositories = ['a/**']\n"
RULE = BEGIN + "\n[[sections.expire]]\n"


@pytest.fixture
def load(tmp_path):
    def loaded(text):
        path = tmp_path / "policy.toml"
        path.write_text(text, "utf-8")
        return Policy.load(path)

    return loaded


@pytest.fixture(scope="module")
def snapshot(sample_sandbox):
    with ra.Registry(sample_sandbox.host) as registry:
        return ra.collect(registry, progress=False)


# -- the file --------------------------------------------------------------------------------


def test_a_policy_file_becomes_values(load):
    made = load(
        RULE + "match = 'pr-[0-9]+'\nolder_than = '2w'\n[approval]\nby = 'A'\nreason = 'r'\nmaximum_deletions = 3\n"
    )
    (rule,) = made.sections[0].expire
    assert (rule.name, rule.older_than, rule.clock) == ("expire 1", timedelta(days=14), "created")
    assert made.approval == StandingApproval(by="A", reason="r", maximum_deletions=3)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 0, "version = 1"),
        ("version = 2", 1, "version = 1"),
        ("version = true", 1, "version = 1"),
        ("version = 1\nmaximum_percnt = 3", 2, "did you mean 'maximum_percent'"),
        ("version = 1\nzzz = 3", 2, "there are also_known_as, approval"),
        ("version = 1\n[sections]\nrepositories = ['a']", 2, r"write \[\[sections\]\]"),
        ("version = 1\n[[sections]]\nname = 'x'", 2, "repositories is missing"),
        ("version = 1\n[[sections]]\nrepositories = []", 3, "write \\['\\*\\*'\\]"),
        ("version = 1\n[[sections]]\nrepositories = ['UPPER']", 3, "not a pattern"),
        (BEGIN + "grace = 24", 5, "write a duration with its unit"),
        (BEGIN + "grace = '6 months'", 5, "not a duration"),
        (BEGIN + "maximum_percent = 101", 5, "from 0 to 100"),
        (BEGIN + "maximum_percent = true", 5, "from 0 to 100"),
        (BEGIN + "minimum_left = -1", 5, "whole number"),
        (BEGIN + "minimum_left = 1.5", 5, "whole number"),
        (RULE + "name = 'x'", 6, "needs a condition"),
        (RULE + "oder_than = '3D'", 7, "sections 1, expire 1: .*'older_than'"),
        (RULE + "tags = []", 6, "needs a condition"),
        (RULE + "tags = ['[z-a]']", 7, "cannot be read"),
        (RULE + "tags = [1]", 7, "list of texts"),
        (RULE + "match = 'a)|(b'", 7, "RE2"),
        (RULE + "match = '(?!x)'", 7, "look-around"),
        (RULE + "match = '(a)\\1'", 7, "back-references"),
        (RULE + "match = '" + "a" * 501 + "'", 7, "500"),
        (RULE + "semver = '^1'", 7, "not a range"),
        (RULE + "older_than = '999999D'", 7, "century"),
        (RULE + "older_than = '3D'\nclock = 'pulled'", 8, "'created' or 'pushed'"),
        (RULE + "untagged = true\ntags = ['x']", 7, "no condition on tags"),
        (RULE + "untagged = 'yes'", 7, "true or false"),
        (BEGIN + "\n[[sections.keep]]\nnewest = 1\nper = '(.+)-x'", 8, "named group"),
        (BEGIN + "\n[[sections.keep]]\nnewest = 1\nper = '(?P<a>.+)-(x)'", 8, r"\(\?:"),
        (BEGIN + "\n[[sections.keep]]\ntags = ['x']\nper = 'minor'", 8, "newest"),
        (BEGIN + "\n[[sections.keep]]\nname = 'x'\ntags = ['x']\n[[sections.keep]]\nname = 'x'\ntags = ['y']", 3, "more than one rule"),
        (BEGIN + "[[sections]]\nrepositories = ['a/b', 'a/*/c']", 6, "would never decide"),
        ("version = 1\n[approval]\nby = 'x'\nmaximum_deletions = 1", 2, "reason is missing"),
        ("version = 1\nin_use = ['A B']", 2, "not a repository name"),
        ("version = 1\nalso_known_as = ['a/b']", 2, "after the registry"),
        ("version = 1\nsections = 3", 2, "list of tables"),
        ("version = 1\nsections = [3]", 0, "not a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line_and_what_to_write(load, text, line, said):
    with pytest.raises(UsageError, match=said) as caught:
        load(text)
    assert (
        ("line" not in str(caught.value).split(":")[0])
        if not line
        else f"policy.toml, line {line}:" in str(caught.value)
    )


@pytest.mark.parametrize("text", ["a = ", "a = " + "[" * 100_000, "version = 1\nversion = 1"])
def test_what_is_no_toml_is_refused(load, text):
    with pytest.raises(UsageError, match=r"TOML|nested"):
        load(text)


def test_a_file_that_is_not_there_or_no_text_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.toml"):
        Policy.load(tmp_path / "gone.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="UTF-8"):
        Policy.load(tmp_path / "bytes.toml")


def test_files_of_what_is_in_use_are_found_beside_the_policy(load, tmp_path):
    (tmp_path / "used.txt").write_text("reg.io/a:1\n")
    made = load("version = 1\nin_use = ['reg.io/b:2']\nin_use_files = ['used.txt']")
    assert [used.text for used in made.in_use] == ["reg.io/b:2", "reg.io/a:1"]
    with pytest.raises(UsageError, match=r"other\.txt"):
        load("version = 1\nin_use_files = ['other.txt']")


# -- the same in Python ----------------------------------------------------------------------


def test_in_python_the_same_is_checked():
    with pytest.raises(UsageError, match="older_than = '6 months'"):
        Expire(older_than="6 months")
    with pytest.raises(UsageError, match="needs a condition"):
        Keep()
    with pytest.raises(UsageError, match="sequence of Keep"):
        Section(repositories=["a"], keep=[{"newest": 1}])
    with pytest.raises(UsageError, match="StandingApproval"):
        Policy(approval="Ada")
    assert Keep(tags="latest").tags == ("latest",)


@given(policies())
def test_a_policy_survives_its_plain_values(made):
    assert Policy.from_dict(made.to_dict()) == made


@given(st.integers(0, 10**9 - 1).map(lambda seconds: timedelta(seconds=seconds)))
def test_a_duration_survives_its_text(duration):
    assert parse_duration(duration_text(duration)) == duration


def test_a_pattern_that_is_more_special_may_come_first():
    for first, second in ((["a/b"], ["a/**"]), (["a/*"], ["**"]), (["a/**"], ["a"]), (["a/*"], ["a/**"])):
        Policy(sections=(Section(repositories=first), Section(repositories=second)))
    Policy(sections=(Section(repositories=["**"], exclude=["a"]), Section(repositories=["a"])))


@pytest.mark.parametrize(("first", "second"), [("**", "a"), ("a/**", "a/b/*"), ("a/*", "a/b"), ("a", "a")])
def test_a_section_that_would_never_decide_is_refused(first, second):
    with pytest.raises(UsageError, match="put it before"):
        Policy(sections=(Section(repositories=[first], name="1"), Section(repositories=[second], name="2")))


# -- examples and the page -------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_lets_something_go_of_the_sample_and_breaks_nothing(path, snapshot):
    made = Policy.load(path)
    result = ra.retention(snapshot, made)
    assert not result.expired.empty
    assert "latest" not in set(result.expired["tag"])
    assert plan(snapshot, result.expired).refused == ()
    assert all(section.grace == timedelta(days=1) for section in made.sections if section.expire)


def gone(snapshot, name):
    made = Policy.load(ROOT / "examples" / "policies" / f"{name}.toml")
    frame = ra.expired_tags(snapshot, made)
    return set(frame["repository"].astype(str) + ":" + frame["tag"])


def test_what_is_in_use_in_the_example_stays(snapshot):
    in_use = {"web/frontend:main-3d42fa4", "shop/checkout/api:main-0563d23"}
    free = tomllib.loads((ROOT / "examples" / "policies" / "unattended.toml").read_text("utf-8")) | {"in_use_files": []}
    assert not in_use & gone(snapshot, "unattended")
    assert set(snapshot.tags["repository"].astype(str) + ":" + snapshot.tags["tag"]) >= in_use
    assert ra.Policy.from_dict(free).in_use == ()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", blocks("toml"))
def test_every_policy_on_the_page_is_one(block, tmp_path, snapshot):
    (tmp_path / "pods.json").write_text('{"image": "reg.io/a:1"}')
    made = Policy.from_dict(tomllib.loads(block), folder=tmp_path)
    ra.retention(snapshot, made)


def test_the_python_on_the_page_runs(snapshot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text((ROOT / "examples" / "policies" / "first.toml").read_text("utf-8"))
    (tmp_path / "pods.json").write_text('{"image": "reg.io/a:1"}')
    names = {"snapshot": snapshot}
    for block in blocks("python"):
        exec(compile(block, "policies.md", "exec"), names)
    assert len(names["candidates"]) > 0


def keys():
    for kind in (Policy, Section, Keep, Expire, StandingApproval):
        for item in fields(kind):
            yield kind.__name__, item.name


@pytest.mark.parametrize(("kind", "key"), [*keys(), ("Policy", "in_use_files"), ("Policy", "version")])
def test_every_key_is_explained_on_the_page_and_has_an_example(kind, key):
    titles = {
        "Policy": "The file",
        "Section": "Sections",
        "Keep": "Rules to keep",
        "Expire": "Rules to expire",
        "StandingApproval": "A standing approval",
    }
    section = PAGE.partition(f"## {titles[kind]}\n")[2].partition("\n## ")[0]
    assert re.search(rf"^\| `[^|]*\b{key}\b[^|]*` \|", section, re.MULTILINE)
    examples = "".join([*blocks("toml"), *(path.read_text("utf-8") for path in EXAMPLES)])
    assert re.search(rf"^(\[+[\w.]*)?{key}\b", examples, re.MULTILINE) or f".{key}]" in examples


def test_every_link_on_the_page_leads_somewhere():
    for target in re.findall(r"\]\((?!https://)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists()
