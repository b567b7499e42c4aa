"""Names as the node client docker-registry-client parses them: its functions, fields and errors.

``data/names.json`` records what version 3.4.0 of it does with some hundred inputs: the fields that it
returns, or a part of the text that it complains of. Where this package is meant to differ, it says so below.
"""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import regaudit as ra
from regaudit.errors import InvalidReference

RECORDED = json.loads((Path(__file__).parent / "data" / "names.json").read_text(encoding="utf-8"))
DIGEST = "sha256:" + "fb9f" * 16
HUB = {"name": "docker.io", "official": True}
QUAY = {"name": "quay.io", "official": False}


def refusal(parse, *arguments):
    with pytest.raises(InvalidReference) as raised:
        parse(*arguments)
    return str(raised.value)


@pytest.mark.parametrize(
    "case", [case for case in RECORDED if "result" in case], ids=lambda case: str(case["arguments"])
)
def test_what_the_node_client_parses_has_its_fields(case):
    assert getattr(ra, case["function"])(*case["arguments"]).to_dict() == case["result"]


@pytest.mark.parametrize(
    "case", [case for case in RECORDED if "refused" in case], ids=lambda case: str(case["arguments"])
)
def test_what_the_node_client_refuses_is_refused_with_the_offending_text(case):
    assert case["refused"] in refusal(getattr(ra, case["function"]), *case["arguments"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://quay.io", "'ftp' is not http or https"),
        ("HTTP://quay.io", "'HTTP' is not http or https"),
        ("https://", "'https://' has an empty host"),
        ("registry", "'registry' does not look like a host"),
        ("https://foo", "'foo' does not look like a host"),
        ("docker.io/foo", "'foo' after the registry"),
        ("https://index.docker.io/v1", "'v1' after the registry"),
        ("http://docker.io", "not served over http"),
        ("http://index.docker.io", "not served over http"),
    ],
)
def test_an_index_that_is_none_is_refused_with_the_reason(text, says):
    message = refusal(ra.parse_index, text)
    assert says in message
    assert text in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://quay.io", "no repository after the host"),
        ("quay.io/Team/app", "'Team/app' is not a repository name"),
        ("team/app$", "'team/app$' is not a repository name"),
        ("a/app", "'a' is not a namespace: on Docker Hub it has two characters or more"),
        ("te--am/app", "'te--am' is not a namespace: on Docker Hub it has no two hyphens together"),
        ("-team-/app", "'-team-' is not a namespace: on Docker Hub it does not stand between hyphens"),
        ("quay.io/" + "n" * 256 + "/app", "more than 255 characters"),
        ("http://docker.io/app", "not served over http"),
        ("team/app:1", "has a tag or a digest"),
        (f"team/app@{DIGEST}", "has a tag or a digest"),
    ],
)
def test_a_repository_that_is_none_is_refused_with_the_reason(text, says):
    assert says in refusal(ra.parse_repo, text)


# -- better than the node client --------------------------------------------------------------


def test_a_tag_and_a_digest_are_both_kept():
    found = ra.parse_repo_and_ref(f"alpine:3@{DIGEST}")
    assert (found.tag, found.digest) == ("3", DIGEST)


@pytest.mark.parametrize("tag", ["-x", ".x", "t" * 129, "ta g", "a+b", ""])
def test_a_tag_outside_the_grammar_is_refused(tag):
    assert tag in refusal(ra.parse_repo_and_ref, f"team/app:{tag}")


@pytest.mark.parametrize(
    "digest", ["", "sha256:cafebabe", "sha256:" + "A" * 64, "SHA256:" + "a" * 64, "fb9f", f"{DIGEST}:1"]
)
def test_a_digest_outside_the_grammar_is_refused(digest):
    assert digest in refusal(ra.parse_repo_and_ref, f"team/app@{digest}")


@pytest.mark.parametrize(
    "name", ["", "team/", "team//app", "/app", "..", "a/../b", "a..b", ".app", "team/.app", "quay.io/"]
)
def test_empty_parts_and_dots_that_lead_elsewhere_are_refused(name):
    refusal(ra.parse_repo, name)
    refusal(ra.parse_repo_and_ref, name)


@pytest.mark.parametrize("name", ["a/app", "x/y/z", "a--b/app", "-a-/app", "a/b/c/d/e/f"])
def test_the_rules_of_docker_hub_for_namespaces_hold_there_alone(name):
    assert ra.parse_repo(f"quay.io/{name}").to_dict()["remoteName"] == name


@pytest.mark.parametrize(
    ("text", "host", "repository"),
    [
        ("[::1]:5000/app", "[::1]:5000", "app"),
        ("https://[fe80::1]/team/app", "[fe80::1]", "team/app"),
        ("[2001:DB8::1]/app", "[2001:DB8::1]", "app"),
    ],
)
def test_an_ipv6_address_is_a_host(text, host, repository):
    found = ra.parse_repo_and_ref(f"{text}:1").to_dict()
    assert (found["index"]["name"], found["remoteName"], found["tag"]) == (host, repository, "1")


@pytest.mark.parametrize(
    "text",
    ["quay.io:", "quay.io:0", "quay.io:99999", "quay.io:x", "-bad.com", "a..b", ".", "qu\u00e4y.io", "a b.c", "::1"],
)
def test_what_cannot_be_a_host_is_refused(text):
    refusal(ra.parse_index, text)
    refusal(ra.parse_repo, f"{text}/team/app")


@pytest.mark.parametrize("text", ["localhost/", "http://localhost/"])
def test_the_one_trailing_slash_is_accepted_after_localhost_too(text):
    assert ra.parse_index(text).host == "localhost"


@pytest.mark.parametrize(
    "text", ["https://user:canary@quay.io/app", "https://user:can/ary@quay.io/app", "https://user:canary@"]
)
def test_a_password_in_a_name_is_refused_and_not_repeated(text):
    for parse in (ra.parse_index, ra.parse_repo, ra.parse_repo_and_ref):
        assert "can" not in refusal(parse, text)
    assert "can" not in refusal(ra.parse_index, text.removeprefix("https://"))


@given(st.text(max_size=60) | st.text("ab.-_/:@[]A ~0", max_size=30))
def test_whatever_is_typed_is_parsed_or_refused(text):
    for parse in (ra.parse_index, ra.parse_repo, ra.parse_repo_and_ref):
        with suppress(InvalidReference):
            assert json.dumps(parse(text).to_dict())


# -- the default index ------------------------------------------------------------------------


@pytest.mark.parametrize("default", ["quay.io", ra.parse_index("quay.io"), QUAY])
def test_a_default_index_is_taken_by_position_as_text_parsed_or_as_fields(default):
    assert ra.parse_repo("foo", default).to_dict()["index"] == QUAY
    assert ra.parse_repo_and_tag("team/foo:1", default).to_dict()["canonicalName"] == "quay.io/team/foo"
    assert ra.parse_repo_and_ref("docker.io/foo:1", default).to_dict()["index"] == HUB


def test_a_default_index_keeps_its_scheme():
    index = {"name": "reg.example:5000", "official": False, "scheme": "http"}
    assert ra.parse_repo("foo", "http://reg.example:5000").to_dict()["index"] == index
    assert ra.parse_repo("foo", index).to_dict()["index"] == index


def test_the_fields_can_be_parsed_again():
    found = ra.parse_repo_and_ref("https://quay.io/team/app:1")
    assert ra.parse_repo(found.repository, found.to_dict()["index"]) == ra.parse_repo("https://quay.io/team/app")
