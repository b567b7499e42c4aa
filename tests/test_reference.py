"""Names: what is accepted, what is refused and how, and that a printed name reads back as itself."""

from __future__ import annotations

import hashlib
import json
import pickle
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from regaudit.errors import InvalidReference
from regaudit.reference import (
    DOCKER_HUB,
    Digest,
    Platform,
    Reference,
    RegistryName,
    attached_tag,
    check_pattern,
    check_repository,
    check_tag,
    compile_pattern,
    is_literal,
    is_repository,
    is_tag,
    parse_reference,
    parse_registry,
    parse_target,
    split_attached_tag,
)

CANARY = "canary-b52d0f"
HEX = "fb9f" * 16
SHA256 = f"sha256:{HEX}"
SHA512 = f"sha512:{HEX * 2}"

PARTS = st.from_regex(r"[a-z0-9]{1,8}(([.]|_|__|-{1,3})[a-z0-9]{1,8}){0,3}", fullmatch=True)
REPOSITORIES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
DIGESTS = st.one_of(
    st.binary(max_size=8).map(Digest.of),
    st.binary(max_size=8).map(lambda data: Digest.of(data, "sha512")),
    st.from_regex(r"[a-z0-9]{1,6}([+._-][a-z0-9]{1,6})?:[A-Za-z0-9=_-]{1,40}", fullmatch=True)
    .filter(lambda text: not text.startswith(("sha256:", "sha512:")))
    .map(Digest),
)
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=2, max_size=4).map(".".join),
    st.just("localhost"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address.compressed}]"),
)
PORTS = st.one_of(st.just(""), st.integers(1, 65535).map(":{}".format))
REGISTRIES = st.builds(
    lambda host, port, scheme: parse_registry(f"{scheme}{host}{port}"),
    HOSTS,
    PORTS,
    st.sampled_from(["", "https://", "http://"]),
)


def refusal(parse, text):
    with pytest.raises(InvalidReference) as caught:
        parse(text)
    return str(caught.value)


# -- digests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [SHA256, SHA512, "blake3:abc", "sha256+b64:LCa0a2j_xo=", "multihash+base58:QmRZxt2b", "md5.x_y-z:0"]
)
def test_a_digest_of_the_image_specification_is_kept_as_written(text):
    digest = Digest(text)
    assert digest == text
    assert f"{digest.algorithm}:{digest.encoded}" == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        f":{HEX}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"sha512:{HEX}",
        f"SHA256:{HEX}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:{HEX[:-1]}g",
        f"sha256::{HEX}",
        "a++b:c",
        "+a:b",
        "a+:b",
        "x:a/b",
        "x:../..",
        "x:%2e",
        "x:a b",
        "x:\u0661",
        "sha256:" + "\uff10" * 64,
    ],
)
def test_anything_else_is_no_digest(text):
    assert "sha256:" in refusal(Digest, text)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_of_bytes_matches_these_bytes_alone(algorithm):
    digest = Digest.of(b"data", algorithm)
    assert digest.encoded == hashlib.new(algorithm, b"data").hexdigest()
    assert digest.verifiable
    assert digest.matches(b"data")
    assert not digest.matches(b"other")
    hasher = digest.hasher()
    hasher.update(b"data")
    assert hasher.hexdigest() == digest.encoded


def test_a_digest_that_cannot_be_computed_never_matches_and_says_so():
    digest = Digest("blake3:abc")
    assert not digest.verifiable
    assert not digest.matches(b"")
    with pytest.raises(InvalidReference, match="sha256 or sha512"):
        digest.hasher()


def test_a_digest_is_text_to_json_dictionaries_and_pickle():
    digest = Digest(SHA256)
    assert json.dumps({digest: digest}) == json.dumps({SHA256: SHA256})
    assert {SHA256: 1}[digest] == 1
    assert type(pickle.loads(pickle.dumps(digest))) is Digest
    assert digest.short == "sha256:fb9ffb9ffb9f"


@given(DIGESTS)
def test_a_digest_reads_back_as_itself(digest):
    assert Digest(str(digest)) == digest


# -- registries -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("docker.io", {"name": "docker.io", "official": True}),
        ("index.docker.io", {"name": "docker.io", "official": True}),
        ("registry-1.docker.io", {"name": "docker.io", "official": True}),
        ("Docker.IO", {"name": "docker.io", "official": True}),
        ("https://index.docker.io/v1/", {"name": "docker.io", "official": True, "scheme": "https"}),
        ("quay.io", {"name": "quay.io", "official": False}),
        ("quay.io/", {"name": "quay.io", "official": False}),
        ("https://quay.io/", {"name": "quay.io", "official": False, "scheme": "https"}),
        ("HTTP://Reg.Example:5000", {"name": "reg.example:5000", "official": False, "scheme": "http"}),
        (" quay.io\n", {"name": "quay.io", "official": False}),
        ("localhost", {"name": "localhost", "official": False}),
        ("localhost:5000", {"name": "localhost:5000", "official": False}),
        ("registry", {"name": "registry", "official": False}),
        ("10.0.0.1:80", {"name": "10.0.0.1:80", "official": False}),
        ("[::1]:5000", {"name": "[::1]:5000", "official": False}),
        ("[0:0:0:0:0:0:0:1]", {"name": "[::1]", "official": False}),
        ("http://[2001:DB8::1]", {"name": "[2001:db8::1]", "official": False, "scheme": "http"}),
        ("docker.io.evil.com", {"name": "docker.io.evil.com", "official": False}),
    ],
)
def test_a_registry_is_its_lower_case_host_and_port(text, fields):
    assert parse_registry(text).to_dict() == fields


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no host"),
        ("https://", "names no host"),
        ("https:///v2/", "after the registry"),
        ("ftp://quay.io", "'ftp' is not http or https"),
        ("://quay.io", "is not http or https"),
        ("file:///etc/passwd", "is not http or https"),
        ("quay.io/foo", "'foo' after the registry"),
        ("quay.io//", "after the registry"),
        ("https://quay.io/v2/", "after the registry"),
        ("quay.io?x=1", "does not look like a host"),
        ("quay.io#x", "does not look like a host"),
        ("quay..io", "does not look like a host"),
        ("-quay.io", "does not look like a host"),
        ("quay.io-", "does not look like a host"),
        (".", "does not look like a host"),
        ("quay io", "does not look like a host"),
        ("quay.io\r\nX-Evil", "does not look like a host"),
        ("quay\0.io", "does not look like a host"),
        ("qu\u00e4y.io", "does not look like a host"),
        ("a" * 254, "does not look like a host"),
        ("quay.io:", "is not a port"),
        ("quay.io:0", "is not a port"),
        ("quay.io:080", "is not a port"),
        ("quay.io:65536", "is not a port"),
        ("quay.io:x", "is not a port"),
        ("quay.io:-1", "is not a port"),
        ("quay.io:\uff18\uff10", "is not a port"),
        ("a:b:c", "is not a port"),
        ("[::1", "is not an IPv6 address"),
        ("[[::1]", "is not an IPv6 address"),
        ("[]", "is not an IPv6 address"),
        ("[::1%eth0]", "is not an IPv6 address"),
        ("[::1%\r\nX-Evil: 1]", "is not an IPv6 address"),
        ("[1.2.3.4]", "is not an IPv6 address"),
        ("[quay.io]", "is not an IPv6 address"),
        ("[::1]5000", "is not a port"),
        ("http://docker.io", "not served over http"),
        ("http://index.docker.io", "not served over http"),
    ],
)
def test_a_registry_that_is_none_is_refused_with_the_reason(text, reason):
    assert reason in refusal(parse_registry, text)


@pytest.mark.parametrize(
    ("host", "server"), [(DOCKER_HUB, "registry-1.docker.io"), ("quay.io", "quay.io"), ("[::1]:5000", "[::1]:5000")]
)
def test_the_server_of_a_registry_is_its_host_but_for_docker_hub(host, server):
    assert RegistryName(host).server == server


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("registry.localhost", True),
        ("localhost.", True),
        ("127.0.0.1:5000", True),
        ("127.8.8.8", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("localhost.evil.com", False),
        ("evil-localhost", False),
        ("127.0.0.1.evil.com", False),
        ("10.0.0.1", False),
        ("[::2]", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback_is_a_name_that_can_only_mean_this_machine(host, loopback):
    assert parse_registry(host).loopback is loopback


@given(REGISTRIES)
def test_a_registry_reads_back_as_itself(registry):
    scheme = f"{registry.scheme}://" if registry.scheme else ""
    assert parse_registry(f"{scheme}{registry}") == registry


# -- references: the names table of the seed client, and more ---------------------------------


@pytest.mark.parametrize(
    ("text", "registry", "repository", "familiar", "tag", "digest"),
    [
        ("mongo", "docker.io", "library/mongo", "mongo", None, None),
        ("docker.io/library/mongo", "docker.io", "library/mongo", "mongo", None, None),
        ("index.docker.io/mongo:7", "docker.io", "library/mongo", "mongo", "7", None),
        ("trentm/foo", "docker.io", "trentm/foo", "trentm/foo", None, None),
        ("quay.io/trentm/foo", "quay.io", "trentm/foo", "quay.io/trentm/foo", None, None),
        (
            "myreg.example.com:5000/busybox:foo",
            "myreg.example.com:5000",
            "busybox",
            "myreg.example.com:5000/busybox",
            "foo",
            None,
        ),
        ("https://quay.io/trentm/foo", "quay.io", "trentm/foo", "quay.io/trentm/foo", None, None),
        (f"alpine@{SHA256}", "docker.io", "library/alpine", "alpine", None, SHA256),
        (f"alpine:3@{SHA512}", "docker.io", "library/alpine", "alpine", "3", SHA512),
        ("localhost/a", "localhost", "a", "localhost/a", None, None),
        ("localhost:5000/a/b/c/d", "localhost:5000", "a/b/c/d", "localhost:5000/a/b/c/d", None, None),
        ("[::1]:5000/a:b", "[::1]:5000", "a", "[::1]:5000/a", "b", None),
        ("reg.io/a", "reg.io", "a", "reg.io/a", None, None),
        ("reg.io/x--y/z__z", "reg.io", "x--y/z__z", "reg.io/x--y/z__z", None, None),
        ("foo.bar:7", "docker.io", "library/foo.bar", "foo.bar", "7", None),
    ],
)
def test_a_reference_is_read_in_full_and_in_the_familiar_forms(text, registry, repository, familiar, tag, digest):
    reference = parse_reference(text)
    assert reference.registry.host == registry
    assert reference.local_name == familiar
    assert (reference.repository, reference.tag, reference.digest) == (repository, tag, digest)
    assert (
        parse_reference(str(reference)).to_dict()
        == Reference(RegistryName(registry), repository, tag, digest and Digest(digest)).to_dict()
    )


def test_a_typed_scheme_is_kept_beside_the_registry():
    assert parse_reference("https://quay.io/trentm/foo").to_dict() == {
        "index": {"name": "quay.io", "official": False, "scheme": "https"},
        "official": False,
        "remoteName": "trentm/foo",
        "localName": "quay.io/trentm/foo",
        "canonicalName": "quay.io/trentm/foo",
    }


@pytest.mark.parametrize(
    ("text", "offending"),
    [
        ("", "names no repository"),
        (":tag", "names no repository"),
        ("quay.io/", "names no repository"),
        ("https://quay.io", "names no repository"),
        ("ftp://quay.io/a", "'ftp'"),
        ("https:///a", "names no host"),
        ("http://docker.io/mongo", "not served over http"),
        ("quay.io:x/a", "':x' is not a port"),
        ("reg..io/a", "'reg..io'"),
        ("Mongo", "'library/Mongo'"),
        ("quay.io/Team/app", "'Team/app'"),
        ("quay.io/../x", "'../x'"),
        ("quay.io/a/../b", "'a/../b'"),
        ("quay.io/./a", "'./a'"),
        ("quay.io/.a", "'.a'"),
        ("quay.io/a//b", "'a//b'"),
        ("quay.io/a/", "'a/'"),
        ("quay.io/-a", "'-a'"),
        ("quay.io/a-", "'a-'"),
        ("quay.io/a___b", "'a___b'"),
        ("quay.io/a..b", "'a..b'"),
        ("quay.io/a%2eb", "'a%2eb'"),
        ("quay.io/a?b", "'a?b'"),
        ("quay.io/a#b", "'a#b'"),
        ("quay.io/a\0b", "not a repository name"),
        ("quay.io/a\r\nb", "not a repository name"),
        ("quay.io/\u202eb", "not a repository name"),
        ("quay.io/" + "a" * 256, "at most 255"),
        ("quay.io/a:", "'' is not a tag"),
        ("quay.io/a:.b", "'.b' is not a tag"),
        ("quay.io/a:-b", "'-b' is not a tag"),
        ("quay.io/a:b c", "'b c' is not a tag"),
        ("quay.io/a:b/c", "'b/c' is not a tag"),
        ("quay.io/a:b\nc", "is not a tag"),
        ("quay.io/a:" + "b" * 129, "at most 128"),
        ("quay.io/a@", "'' is not a digest"),
        ("quay.io/a@sha256:abc", "'sha256:abc' is not a digest"),
        (f"quay.io/a@{SHA256}@{SHA256}", "is not a digest"),
        ("a/foo", "'a' is not a namespace: on Docker Hub"),
        ("docker.io/tea--m/foo", "'tea--m' is not a namespace: on Docker Hub"),
        ("-team/foo", "'-team/foo'"),
        ("team-/foo", "'team-/foo'"),
    ],
)
def test_a_reference_outside_the_grammar_is_refused_with_the_offending_text(text, offending):
    message = refusal(parse_reference, text)
    assert offending in message
    assert not re.search(r"[\x00-\x1f\u202e]", message)


@given(REGISTRIES, REPOSITORIES, st.none() | TAGS, st.none() | DIGESTS)
def test_a_reference_reads_back_as_itself(registry, repository, tag, digest):
    assume("." in registry.host or ":" in registry.host or registry.host == "localhost")
    reference = Reference(RegistryName(registry.host), repository, tag, digest)
    assert parse_reference(str(reference)) == reference
    assert parse_reference(f"{reference.local_name}:x").repository == repository


@given(st.from_regex(r"[a-z0-9]{2,8}/[a-z0-9]{1,8}|[a-z0-9]{1,8}", fullmatch=True))
def test_a_familiar_name_on_docker_hub_reads_back_as_itself(text):
    assume(not text.startswith(("library/", "localhost/")))
    reference = parse_reference(text)
    assert reference.local_name == text
    assert parse_reference(str(reference)) == reference


# -- any text at all --------------------------------------------------------------------------

ALMOST = st.lists(
    st.sampled_from([*"aA0.:/@-_[]%?*#\\ \r\n\0", "//", "sha256:", "http://", SHA256, "\u202e"]), max_size=30
).map("".join)


def outcome(parse, text):
    """Return the message of a refusal, empty where the text was accepted."""
    try:
        parse(text)
    except InvalidReference as error:
        return str(error)
    return ""


@pytest.mark.parametrize("parse", [parse_registry, parse_reference, parse_target, check_pattern, Digest])
@given(text=st.one_of(ALMOST, st.text(st.characters(), max_size=100)))
@example(text="a-" * 50_000)
@example(text="a." * 50_000)
@example(text="://" * 50_000)
@example(text="https://" + "@" * 50_000)
@example(text="a" * 100_000 + "!")
@example(text="[" * 50_000 + "]")
@settings(deadline=1000)
def test_any_text_is_read_or_soon_refused_with_a_message_that_is_safe_to_show(parse, text):
    message = outcome(parse, text)
    assert len(message) < 700
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\ud800-\udfff]", message)


@pytest.mark.parametrize("parse", [parse_registry, parse_reference, parse_target])
@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{CANARY}@reg.io",
        f"https://user:{CANARY}@reg.io/",
        f"https://user:{CANARY}@reg.io/team/app",
        f"https://user:{CANARY}@reg.io:5000/team/app:1",
        f"https://{CANARY}@reg.io/team",
        f"ftp://user:{CANARY}@reg.io/team",
        f"https://user:{CANARY}/x@reg.io/team",
        f"https://user:{CANARY}@x@reg.io/team",
        f"user:{CANARY}@reg.io/team/app",
    ],
)
def test_a_password_typed_into_a_name_is_refused_and_not_repeated(parse, text):
    assert CANARY not in refusal(parse, text)


# -- repositories, tags, patterns -------------------------------------------------------------


@given(REPOSITORIES)
def test_a_name_of_the_grammar_is_a_repository_and_a_literal_pattern(name):
    assert check_repository(name) == check_pattern(name) == name
    assert is_literal(name)
    assert compile_pattern(name).fullmatch(name)


@given(TAGS)
def test_a_tag_of_the_grammar_is_accepted(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "name", [None, 7, b"a", ["a"], "", "a" * 256, "A", "../x", "a\nb", "a\n", "<script>", "\u202ea"]
)
def test_what_a_registry_lists_as_a_repository_is_held_to_the_grammar(name):
    assert not is_repository(name)


@pytest.mark.parametrize(
    "name", [None, 7, b"a", "", "a" * 129, "a" * 300, "../x", "a\nb", "a\n", "<script>", "-a", ".a", "\u0661"]
)
def test_what_a_registry_lists_as_a_tag_is_held_to_the_grammar(name):
    assert not is_tag(name)


def test_the_longest_names_are_accepted():
    assert is_repository("a" * 255)
    assert is_tag("_" * 128)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("team/*", ["team/app", "team/a-b.c"], ["team", "team/a/b", "team2/app"]),
        ("team/**", ["team/app", "team/a/b"], ["team", "team2/app"]),
        ("**", ["a", "a/b", "a/b/c"], []),
        ("**/app", ["team/app", "a/b/app"], ["app", "team/app2"]),
        ("*", ["a"], ["a/b"]),
        ("te?m/app", ["team/app", "te.m/app"], ["tem/app", "te/m/app"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a***b", ["a/x/b"], ["a/x/c"]),
    ],
)
def test_a_star_stays_within_a_part_of_a_name_and_two_stars_do_not(pattern, matching, other):
    compiled = compile_pattern(pattern)
    assert [name for name in matching + other if compiled.fullmatch(name)] == matching
    assert is_literal(pattern) is (pattern == "a.b")


def plainly(pattern):
    """Return the regular expression of a pattern as its definition reads, which may go back and forth for long."""
    wild = {"?": "[^/]", "*": "[^/]*"}
    parts = re.split(r"(\*+|\?)", pattern)
    return re.compile("".join(wild.get(p, ".*") if p[:1] in {"*", "?"} else re.escape(p) for p in parts))


@given(st.text("ab/*?", min_size=1, max_size=12), st.text("ab/", max_size=14))
@settings(max_examples=500)
def test_a_pattern_matches_what_its_definition_says(pattern, name):
    assume(not is_literal(pattern))
    assert bool(compile_pattern(pattern).fullmatch(name)) == bool(plainly(pattern).fullmatch(name))


@pytest.mark.parametrize("star", ["*", "**", "?*"])
def test_a_pattern_of_many_stars_is_quick_on_the_worst_name(star):
    assert not compile_pattern(f"{star}a" * 20 + "b").fullmatch("a" * 255)


@pytest.mark.parametrize(
    "pattern", ["", "Team/*", "[a-z]", "a|b", "(a+)+", "a\n", "../x", "a/../b", "/a", "a//b", ".a", "a?b=c", "%2e"]
)
def test_a_pattern_that_could_be_more_than_a_pattern_is_refused(pattern):
    assert "is not a pattern" in refusal(check_pattern, pattern)


@pytest.mark.parametrize(
    ("text", "host", "scheme", "pattern"),
    [
        ("reg.io", "reg.io", None, None),
        ("reg.io/", "reg.io", None, None),
        ("reg.io/team/*", "reg.io", None, "team/*"),
        ("http://localhost:5000/**", "localhost:5000", "http", "**"),
        ("docker.io/library/mongo", "docker.io", None, "library/mongo"),
        ("registry/app", "registry", None, "app"),
    ],
)
def test_a_target_of_the_command_line_is_a_host_and_perhaps_a_pattern(text, host, scheme, pattern):
    assert parse_target(text) == (RegistryName(host, scheme), pattern)


# -- tags that are attached to a digest, platforms --------------------------------------------


@pytest.mark.parametrize(
    ("digest", "tag"),
    [
        (SHA256, f"sha256-{HEX}"),
        (SHA512, f"sha512-{HEX}"),
        ("sha256+b64:ab=_-", "sha256-b64-ab-_-"),
        ("a" * 40 + ":" + "b" * 70, "a" * 32 + "-" + "b" * 64),
    ],
)
def test_the_fallback_tag_is_cut_and_spelled_as_the_specification_says(digest, tag):
    assert attached_tag(Digest(digest)) == tag


@given(DIGESTS)
def test_the_fallback_tag_of_any_digest_is_a_tag(digest):
    assert is_tag(attached_tag(digest))


@given(st.binary(max_size=8), st.sampled_from(["sha256", "sha512"]), st.sampled_from(["", "sig", "att", "sbom"]))
def test_an_attached_tag_splits_into_the_fallback_tag_and_its_suffix(data, algorithm, suffix):
    tag = attached_tag(Digest.of(data, algorithm))
    assert split_attached_tag(f"{tag}.{suffix}" if suffix else tag) == (tag, suffix)


@pytest.mark.parametrize(
    "tag", ["latest", "", "sha256-abc", f"sha256-{HEX}0", f"sha256-{HEX}.", f"sha256-{HEX}.SIG", f"v-sha256-{HEX}"]
)
def test_an_ordinary_tag_is_attached_to_nothing(tag):
    assert split_attached_tag(tag) is None


def test_a_platform_is_written_with_slashes_and_knows_its_fields():
    assert str(Platform("linux", "amd64")) == "linux/amd64"
    assert str(Platform("linux", "arm", "v7")) == "linux/arm/v7"
    assert Platform("linux", "amd64").to_dict() == {"os": "linux", "architecture": "amd64"}
    assert Platform("linux", "arm", "v7").to_dict() == {"os": "linux", "architecture": "arm", "variant": "v7"}
