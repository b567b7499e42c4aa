"""Documents: what is read from them, what is refused, and over which bytes a digest is taken."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import regaudit.manifest as manifest_module
from regaudit.errors import BadManifest
from regaudit.manifest import (
    ACCEPT_MANIFESTS,
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    FIRST_IMAGE,
    LARGEST_SIZE,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_PLAIN,
    SCHEMA1_SIGNED,
    Descriptor,
    Index,
    LegacyManifest,
    Manifest,
    believable,
    digest_of_document,
    load_json,
    parse_image_config,
    parse_manifest,
)
from regaudit.reference import Digest, Platform

A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def descriptor(digest=A, size=10, media_type=LAYER, **more):
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


def image(**more):
    config = descriptor(C, 5, OCI_CONFIG)
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [descriptor()], **more}


def index(*manifests, **more):
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **more}


def legacy(**more):
    history = [{"v1Compatibility": json.dumps({"created": "2020-05-06T07:08:09.123456789Z"})}]
    return {"schemaVersion": 1, "name": "team/app", "tag": "1.0", "architecture": "amd64"} | {
        "fsLayers": [{"blobSum": B}, {"blobSum": A}],
        "history": history,
        **more,
    }


def without(document, *names):
    return {name: value for name, value in document.items() if name not in names}


def encoded(document):
    return json.dumps(document, indent=3).encode()


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(payload, length=None, tail=None, protected=None, signatures=None):
    """Return schema 1 as docker signs it: the payload, with signatures put in before its last brace (JWS, pretty)."""
    cut = payload.rindex(b"\n}")
    header = {
        "formatLength": cut if length is None else length,
        "formatTail": base64url(payload[cut:]) if tail is None else tail,
        "time": "2020-05-06T07:08:09Z",
    }
    signature = {
        "header": {"jwk": {"kty": "EC"}, "alg": "ES256"},
        "signature": base64url(b"no signature, 64 bytes long" * 3),
        "protected": base64url(json.dumps(header).encode()) if protected is None else protected,
    }
    added = json.dumps([signature] if signatures is None else signatures, indent=3).encode()
    return payload[:cut] + b',\n   "signatures": ' + added + b"\n}"


def refusal(document, media_type=""):
    raw = document if isinstance(document, bytes) else encoded(document)
    with pytest.raises(BadManifest) as caught:
        parse_manifest(raw, media_type)
    return str(caught.value)


# -- images and artifacts ---------------------------------------------------------------------


def test_an_image_is_read_with_its_config_and_layers_in_order():
    raw = encoded(image(layers=[descriptor(A, 10), descriptor(B, 20)], annotations={"a": "b", "n": 1}))
    manifest = parse_manifest(raw, OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert (manifest.raw, manifest.media_type, manifest.digest) == (raw, OCI_MANIFEST, Digest.of(raw))
    assert [(blob.digest, blob.size) for blob in manifest.blobs] == [(C, 5), (A, 10), (B, 20)]
    assert manifest.annotations == {"a": "b"}
    assert manifest.kind == "image"
    assert manifest.to_dict() == json.loads(raw)


def test_a_docker_image_is_an_image_too():
    document = image(mediaType=DOCKER_MANIFEST, config=descriptor(C, 5, DOCKER_CONFIG))
    manifest = parse_manifest(encoded(document), DOCKER_MANIFEST)
    assert (manifest.media_type, manifest.kind) == (DOCKER_MANIFEST, "image")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"artifactType": "application/spdx+json", "config": descriptor(C, 2, OCI_EMPTY)}, "artifact"),
        ({"config": descriptor(C, 2, "application/vnd.cncf.helm.config.v1+json")}, "artifact"),
        ({"config": descriptor(C, 2, OCI_EMPTY), "layers": []}, "artifact"),
        ({"layers": [descriptor(media_type="application/vnd.in-toto+json")]}, "artifact"),
        ({"layers": [descriptor(media_type="application/vnd.dev.cosign.simplesigning.v1+json")]}, "signature"),
        ({"artifactType": "application/vnd.cncf.notary.signature"}, "signature"),
        ({"artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"}, "signature"),
        ({"layers": []}, "image"),
    ],
)
def test_the_kind_of_a_manifest_follows_from_its_types(change, kind):
    assert parse_manifest(encoded(image(**change)), OCI_MANIFEST).kind == kind


def test_an_artifact_may_have_no_layers_and_names_its_subject():
    document = without(image(subject=descriptor(B, 7, OCI_MANIFEST), artifactType="a/b"), "layers")
    manifest = parse_manifest(encoded(document), OCI_MANIFEST)
    assert manifest.layers == ()
    assert (manifest.subject.digest, manifest.artifact_type) == (B, "a/b")


# -- indexes ----------------------------------------------------------------------------------


def test_an_index_is_read_with_its_children_and_their_platforms():
    attestation = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": A}
    children = [
        descriptor(A, 1, OCI_MANIFEST, platform={"os": "linux", "architecture": "arm", "variant": "v7"}),
        descriptor(B, 2, OCI_MANIFEST, platform={"os": "unknown", "architecture": "unknown"}, annotations=attestation),
        descriptor(C, 3, OCI_INDEX, artifactType="a/b", platform={"os": "linux"}),
    ]
    found = parse_manifest(encoded(index(*children, subject=descriptor(A))), OCI_INDEX)
    assert isinstance(found, Index)
    assert found.kind == "index"
    assert [child.platform for child in found.manifests] == [
        Platform("linux", "arm", "v7"),
        Platform("unknown", "unknown"),
        None,
    ]
    assert [child.is_attestation for child in found.manifests] == [False, True, False]
    assert found.subject.digest == A
    assert found.to_dict()["manifests"][1] == found.manifests[1].to_dict()


@pytest.mark.parametrize(
    "media_type", ["", OCI_INDEX, "application/json", f"{OCI_INDEX}; charset=utf-8", OCI_INDEX.upper()]
)
def test_an_index_may_leave_its_media_type_to_the_content_type_or_to_its_fields(media_type):
    found = parse_manifest(encoded(without(index(), "mediaType")), media_type)
    assert (found.media_type, found.manifests) == (OCI_INDEX, ())


@pytest.mark.parametrize(("digest", "size"), [(Digest.of(b"", "sha512"), 0), ("blake3:x", LARGEST_SIZE)])
def test_any_digest_of_the_grammar_and_any_size_of_63_bits_are_kept(digest, size):
    [child] = parse_manifest(encoded(index(descriptor(digest, size)))).manifests
    assert (child.digest, child.size) == (digest, size)


# -- what contradicts itself ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (image(), OCI_INDEX),
        (image(), DOCKER_MANIFEST),
        (index(), OCI_MANIFEST),
        (index(), DOCKER_LIST),
        (image(mediaType=SCHEMA1_PLAIN), OCI_MANIFEST),
        (without(image(), "mediaType"), OCI_INDEX),
        (without(index(), "mediaType"), OCI_MANIFEST),
        (image(manifests=[]), OCI_MANIFEST),
        (image(manifests=None), ""),
        (index(layers=[]), OCI_INDEX),
        (without(index(config=descriptor()), "mediaType"), ""),
        (index(config=descriptor()), OCI_INDEX),
        (index(fsLayers=[]), OCI_INDEX),
        (image(fsLayers=[]), OCI_MANIFEST),
        (image(schemaVersion=1), OCI_MANIFEST),
        (image(schemaVersion="2"), OCI_MANIFEST),
        (image(mediaType=7), OCI_MANIFEST),
        (legacy(), OCI_MANIFEST),
        (legacy(manifests=[]), SCHEMA1_PLAIN),
        (legacy(schemaVersion=2), SCHEMA1_PLAIN),
    ],
)
def test_a_document_that_two_readers_could_read_as_two_things_is_refused(document, media_type):
    assert refusal(document, media_type)


def test_signatures_in_an_image_do_not_decide_over_its_digest():
    payload = encoded(without(image(), "schemaVersion"))
    raw = signed(payload).replace(b'"signatures"', b'"schemaVersion": 1, "signatures"')
    with pytest.raises(BadManifest):
        digest_of_document(raw)
    assert refusal(raw, OCI_MANIFEST)
    assert refusal(raw, "")


@pytest.mark.parametrize(
    "document",
    [
        [],
        "text",
        None,
        {},
        {"schemaVersion": 2},
        {"errors": []},
        without(image(), "config"),
        image(config=None),
        image(config=[]),
        image(layers={}),
        image(layers=["x"]),
        image(subject="x"),
        image(mediaType="text/html"),
        index(None),
        index(manifests=None),
        without(legacy(), "fsLayers"),
        legacy(fsLayers=[{}]),
        legacy(fsLayers=[{"blobSum": 7}]),
        legacy(fsLayers=[{"blobSum": "sha256:x"}]),
        legacy(fsLayers=["x"]),
    ],
)
def test_json_that_is_no_manifest_is_refused(document):
    assert refusal(document)


@pytest.mark.parametrize("size", [-1, 2**63, 2**64, 10**18 * 99, 1.5, 10.0, "10", None, True, [1]])
def test_a_size_outside_63_bits_makes_the_manifest_bad(size):
    assert "size" in refusal(image(layers=[descriptor(size=size)]))


@pytest.mark.parametrize(
    "change", [{"digest": None}, {"digest": "sha256:x"}, {"mediaType": None}, {"digest": "../../x:y"}]
)
def test_a_descriptor_without_a_digest_or_type_makes_the_manifest_bad(change):
    assert refusal(image(layers=[{**descriptor(), **change}]))


# -- JSON, read strictly ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        ("{}".encode("utf-16"), "is not JSON"),
        ("{}".encode("utf-16-le"), "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"a": "\xed\xa0\x80"}', "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"[" * 100_000, "nested"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"a":' * 1100 + b"1" + b"}" * 1100, "nested"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b"9" * 5000, "5000 digits"),
        (b"-" + b"9" * 5000, "digits"),
        (b"1." + b"9" * 5000, "number"),
        (b"1e999", "number"),
        (b"-1e999", "number"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"digest": 1, "digest": 2}', "twice"),
        (b'{"a": {"mediaType": 1, "mediaType": 1}}', "twice"),
        (b'{"a": 1, "\\u0061": 2}', "twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": "\\uDFFF x"}', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
    ],
)
@pytest.mark.parametrize("quickly", [True, False])
def test_json_that_could_be_read_in_two_ways_or_not_at_all_is_refused(raw, reason, quickly, monkeypatch):
    if not quickly:
        monkeypatch.setattr(manifest_module, "orjson", None)
    with pytest.raises(BadManifest, match=reason):
        load_json(raw)


def test_json_as_registries_write_it_is_accepted():
    assert load_json(b'{"a": [1, -2, 2.5e3, "\\ud83d\\ude00 \xc3\xa4", null, true]}') == {
        "a": [1, -2, 2500.0, "\U0001f600 \u00e4", None, True]
    }
    assert load_json(b"[" * 64 + b"]" * 64)
    assert load_json(str(LARGEST_SIZE).encode()) == LARGEST_SIZE
    assert load_json(b"[" + b"{}," * 200 + b"{}]")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_json_writes_is_read_back(value):
    assert load_json(json.dumps(value).encode()) == value
    assert load_json(json.dumps(value, ensure_ascii=False).encode()) == value


SPACES = st.text(" \t\r\n", max_size=3)
# Names that repeat, escapes that Go writes and others that nobody need write, numbers in odd forms, texts that only spaces tell apart.
WORDS = st.sampled_from(
    ['"a"', '"b"', '"a b"', '"ab"', '"\\u0061"', '"\\u0026"', '"&"', '"<"', '"\\u003c"', '"\\":"', '"\u00e4"', '"\\/"']
)
NUMBERS = st.sampled_from(
    ["0", "-0", "1", "1.0", "1e2", "1E2", "18446744073709551616", "9" * 19, "9" * 20, "9" * 21, "0.1", "1e999"]
)


def objects(values):
    fields = st.lists(st.tuples(WORDS, SPACES, values, SPACES), max_size=3)
    return fields.map(lambda pairs: "{" + ",".join(f"{name}{a}:{value}{b}" for name, a, value, b in pairs) + "}")


def lists(values):
    return st.tuples(SPACES, st.lists(values, max_size=3)).map(lambda parts: "[" + parts[0] + ",".join(parts[1]) + "]")


DOCUMENTS = st.recursive(
    WORDS | NUMBERS | st.just("null"), lambda values: objects(values) | lists(values), max_leaves=8
)


def read_or_refused(read, raw):
    try:
        return repr(read(raw))
    except BadManifest:
        return "refused"


@given(DOCUMENTS)
def test_the_quick_reader_reads_nothing_in_another_way_than_the_strict_one(text):
    raw = text.encode()
    assert read_or_refused(load_json, raw) == read_or_refused(manifest_module._load_strictly, raw)


def test_documents_as_tools_write_them_are_read_quickly():
    pytest.importorskip("orjson", reason='`pip install ".[fast]"` first')
    document = {"schemaVersion": 2, "history": [{"created_by": "RUN a && b <c >d"}], "size": LARGEST_SIZE}
    for layout in ({"separators": (",", ":")}, {"indent": 2}, {"indent": 3}, {}):
        raw = json.dumps(document, **layout).encode()
        by_go = raw.replace(b"&", b"\\u0026").replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
        assert manifest_module._load_plain(raw) == manifest_module._load_plain(by_go) == document


def test_nobody_can_change_what_others_read_of_the_same_document():
    raw = encoded({**image(), "annotations": {"a": "b"}})
    parsed = parse_manifest(raw)
    for value in (parsed, parsed.config, parsed.layers[0]):
        with pytest.raises(TypeError, match="item assignment"):
            value.annotations["a"] = "c"
    assert pickle.loads(pickle.dumps(parsed)) == copy.deepcopy(parsed) == parse_manifest(raw)


# -- schema 1 ---------------------------------------------------------------------------------


def test_signed_schema_1_has_the_digest_of_its_payload_and_keeps_its_raw_bytes():
    payload = encoded(legacy())
    raw = signed(payload)
    assert json.loads(raw)["signatures"]
    manifest = parse_manifest(raw, SCHEMA1_SIGNED)
    assert isinstance(manifest, LegacyManifest)
    assert manifest.digest == Digest.of(payload) == digest_of_document(raw)
    assert manifest.digest != Digest.of(raw)
    assert manifest.raw == raw
    assert manifest.to_dict() == json.loads(raw)
    assert (manifest.kind, manifest.name, manifest.tag, manifest.architecture) == ("legacy", "team/app", "1.0", "amd64")
    assert manifest.layers == (B, A)
    assert manifest.created == datetime(2020, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


@pytest.mark.parametrize("media_type", ["", SCHEMA1_PLAIN, SCHEMA1_SIGNED, "application/json"])
def test_unsigned_schema_1_has_the_digest_of_its_bytes(media_type):
    raw = encoded(legacy())
    assert parse_manifest(raw, media_type).digest == digest_of_document(raw) == Digest.of(raw)


def test_the_word_signatures_alone_changes_no_digest():
    for document in (image(annotations={"signatures": "x"}), legacy(signatures=[]), [{"signatures": 1}]):
        raw = encoded(document)
        assert digest_of_document(raw) == Digest.of(raw)


@pytest.mark.parametrize(
    "broken",
    [
        {"length": -1},
        {"length": 10**6},
        {"length": "10"},
        {"length": 1.5},
        {"tail": 7},
        {"tail": "!"},
        {"tail": "\u00e4"},
        {"tail": "abcde"},
        {"protected": "!!"},
        {"protected": base64url(b"[]")},
        {"protected": base64url(b"\xff")},
        {"protected": base64url(b'{"formatLength": 1}')},
        {"protected": 7},
        {"signatures": [7]},
        {"signatures": {"a": 1}},
        {"signatures": "text"},
    ],
)
def test_a_signature_that_does_not_say_what_it_signs_is_refused(broken):
    raw = signed(encoded(legacy()), **broken)
    assert refusal(raw, SCHEMA1_SIGNED)


def test_signed_schema_1_that_says_more_than_what_is_signed_is_refused():
    payload = encoded(legacy())
    cut = payload.rindex(b"\n}")
    assert "than what is signed" in refusal(
        signed(payload).replace(b',\n   "signatures"', b', "tag2": 1, "signatures"')
    )
    assert "than what is signed" in refusal(signed(payload, length=cut, tail=base64url(b', "tag2": 1\n}')))


def test_signatures_of_different_texts_are_refused():
    payload = encoded(legacy())
    one = json.loads(signed(payload))["signatures"][0]
    other = json.loads(signed(payload, length=5))["signatures"][0]
    assert "different texts" in refusal(signed(payload, signatures=[one, other]))
    assert parse_manifest(signed(payload, signatures=[one, one])).digest == Digest.of(payload)


@pytest.mark.parametrize(
    "history", [None, [], [7], [{}], [{"v1Compatibility": 7}], [{"v1Compatibility": "{"}], [{"v1Compatibility": "[]"}]]
)
def test_schema_1_without_a_readable_history_has_no_age(history):
    assert parse_manifest(encoded(legacy(history=history)), SCHEMA1_PLAIN).created is None


# -- image configs, times, the Accept header --------------------------------------------------


def test_an_image_config_is_read_where_it_speaks():
    document = {"created": "2026-01-02T03:04:05Z", "os": "linux", "architecture": "arm64", "variant": "v8"}
    more = {"config": {"Labels": {"a": "b", "n": 1}}, "author": "ada", "history": [{"created_by": "RUN"}, 7]}
    raw = encoded(document | more)
    config = parse_image_config(raw)
    assert config.created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert config.platform == Platform("linux", "arm64", "v8")
    assert (config.labels, config.author, config.history) == ({"a": "b"}, "ada", ({"created_by": "RUN"},))
    assert config.to_dict() == json.loads(raw)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"created": 7, "os": 7, "architecture": [], "config": [], "author": {}, "history": {}},
        {"created": "soon", "os": "linux", "config": {"Labels": None}},
        {"architecture": "amd64", "config": {"Labels": []}, "history": None},
    ],
)
def test_an_image_config_that_is_silent_or_odd_gives_nothing_made_up(document):
    config = parse_image_config(encoded(document))
    assert (config.created, config.platform, config.labels) == (None, None, {})
    assert (config.author, config.history) == (None, ())


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"{", b"[" * 100_000])
def test_bytes_that_are_no_image_config_are_refused(raw):
    with pytest.raises(BadManifest):
        parse_image_config(raw)


@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        (None, False),
        (datetime(1, 1, 1, tzinfo=UTC), False),
        (datetime(1970, 1, 1, tzinfo=UTC), False),
        (datetime(1980, 1, 1, tzinfo=UTC), False),
        (FIRST_IMAGE - timedelta(seconds=1), False),
        (FIRST_IMAGE, True),
        (NOW, True),
        (NOW + timedelta(seconds=1), False),
    ],
)
def test_a_time_before_the_first_image_or_in_the_future_is_no_time(moment, kept):
    assert believable(moment, NOW) == (moment if kept else None)


def test_every_kind_is_accepted_and_schema_1_last():
    kinds = [part.partition(";")[0] for part in ACCEPT_MANIFESTS.split(", ")]
    assert set(kinds[:4]) == {OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST}
    assert kinds[4:] == [SCHEMA1_SIGNED, SCHEMA1_PLAIN]
    assert "*/*" not in ACCEPT_MANIFESTS


# -- any bytes at all -------------------------------------------------------------------------

TYPES = st.sampled_from(["", OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, SCHEMA1_SIGNED, "text/html", ";;"])
FIELDS = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "fsLayers", "signatures", "history"]
DOCUMENTS = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.builds(lambda more: image(**more), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2)),
    st.builds(lambda more: index(**more), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2)),
    st.builds(lambda more: legacy(**more), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2)),
).map(encoded)


def attempt(parse, *arguments):
    try:
        return parse(*arguments)
    except BadManifest:
        return None


@given(
    st.one_of(st.binary(max_size=200), DOCUMENTS, st.binary(max_size=60).map(lambda raw: signed(raw + b"\n}"))), TYPES
)
@example(b'{"a":' * 200_000, OCI_MANIFEST)
@example(b"[" + b"0," * 500_000 + b"0]", OCI_MANIFEST)
@example(b'"' + b"\\ud83d\\ude00" * 100_000 + b'"', OCI_MANIFEST)
@example(b'"signatures"' * 100_000, SCHEMA1_SIGNED)
@settings(deadline=1000)
def test_any_bytes_are_a_document_or_a_bad_manifest_and_soon(raw, media_type):
    found = attempt(parse_manifest, raw, media_type)
    if found is not None:
        assert found.raw == raw
        assert parse_manifest(raw, found.media_type) == found
        assert found.digest == digest_of_document(raw)
    attempt(digest_of_document, raw)
    attempt(parse_image_config, raw)


@given(
    st.builds(
        Descriptor,
        st.text(min_size=1, max_size=20),
        st.binary(max_size=4).map(Digest.of),
        st.integers(0, LARGEST_SIZE),
        st.none()
        | st.builds(Platform, *[st.text(min_size=1, max_size=5)] * 2, st.none() | st.text(min_size=1, max_size=3)),
        st.none() | st.text(min_size=1, max_size=5),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    )
)
def test_a_descriptor_written_is_the_descriptor_read(found):
    [layer] = parse_manifest(encoded(image(layers=[found.to_dict()])), OCI_MANIFEST).layers
    assert layer == found
