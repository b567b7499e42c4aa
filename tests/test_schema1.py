"""Signatures of schema 1: what was changed, or signed by nobody, is refused."""

import base64
import importlib.util
import json
import logging
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from test_real_client import tiny_image

from regaudit.client.registry import Registry
from regaudit.errors import BadManifest, BadSignature, MissingExtra
from regaudit.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    SCHEMA1_PLAIN,
    SCHEMA1_SIGNED,
    LegacyManifest,
    digest_of_document,
    parse_manifest,
)
from regaudit.reference import Digest
from regaudit.schema1 import verify_signatures

BLOB = "sha256:" + "a" * 64
PAYLOAD = json.dumps(
    {
        "schemaVersion": 1,
        "name": "team/app",
        "tag": "1.0",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": BLOB}],
        "history": [{"v1Compatibility": '{"created":"2020-05-06T07:08:09Z"}'}],
    },
    indent=3,
).encode()
CURVES = {"ES256": ("P-256", ec.SECP256R1()), "ES384": ("P-384", ec.SECP384R1()), "ES512": ("P-521", ec.SECP521R1())}
KEYS = {name: ec.generate_private_key(curve) for name, (_, curve) in CURVES.items()}
RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS.update(dict.fromkeys(("RS256", "RS384", "RS512"), RSA_KEY))
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def text(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value, size=None):
    return text(value.to_bytes(size or (value.bit_length() + 7) // 8))


def jwk(key):
    public = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return {"kty": "RSA", "n": number(public.n), "e": number(public.e)}
    size = (key.key_size + 7) // 8
    name = next(name for name, curve in CURVES.values() if curve.name == key.curve.name)
    return {"kty": "EC", "crv": name, "x": number(public.x, size), "y": number(public.y, size)}


def sign(key, algorithm, data):
    hashing = HASHES[algorithm[2:]]
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashing)
    size = (key.key_size + 7) // 8
    return b"".join(half.to_bytes(size) for half in decode_dss_signature(key.sign(data, ec.ECDSA(hashing))))


def signature(key=None, algorithm="ES256", payload=PAYLOAD, *, header=None, more=None):
    """Return one entry of the signatures of a manifest, with the payload cut before its last brace."""
    key = KEYS[algorithm] if key is None else key
    cut = payload.rindex(b"\n}")
    protected = text(json.dumps({"formatLength": cut, "formatTail": text(payload[cut:]), **(more or {})}).encode())
    return {
        "header": {"jwk": jwk(key), "alg": algorithm} if header is None else header,
        "signature": text(sign(key, algorithm, f"{protected}.{text(payload)}".encode())),
        "protected": protected,
    }


def signed(*signatures, payload=PAYLOAD):
    cut = payload.rindex(b"\n}")
    return payload[:cut] + b',\n   "signatures": ' + json.dumps(signatures, indent=3).encode() + b"\n}"


def certificate(key, signer=None):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return base64.b64encode(made.sign(signer or key, hashes.SHA256()).public_bytes(Encoding.DER)).decode()


def refusal(raw, kind=BadSignature):
    with pytest.raises(kind) as raised:
        verify_signatures(raw)
    return str(raised.value)


# -- what fits --------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", sorted(KEYS))
def test_each_algorithm_is_verified_with_the_key_that_comes_along(algorithm):
    raw = signed(signature(algorithm=algorithm))
    (key,) = verify_signatures(raw)
    assert [len(group) for group in key.split(":")] == [4] * 12
    assert digest_of_document(raw) == Digest.of(PAYLOAD)


@pytest.mark.parametrize("field", ["x5c", "chain"])
@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_the_key_may_come_in_a_certificate(field, algorithm):
    header = {"alg": algorithm, field: [certificate(KEYS[algorithm])]}
    assert verify_signatures(signed(signature(algorithm=algorithm, header=header))) == verify_signatures(
        signed(signature(algorithm=algorithm))
    )


def test_several_signatures_are_all_verified_and_their_keys_are_told():
    other = ec.generate_private_key(ec.SECP256R1())
    first, second = signature(), signature(other)
    keys = verify_signatures(signed(first, second))
    assert len(set(keys)) == 2
    assert verify_signatures(signed(first)) == keys[:1]


def test_a_key_may_name_its_id_and_the_algorithm_may_be_protected():
    (key,) = verify_signatures(signed(signature()))
    header = {"jwk": {**jwk(KEYS["ES256"]), "kid": key}}
    assert verify_signatures(signed(signature(header=header, more={"alg": "ES256"}))) == (key,)


# -- what does not ----------------------------------------------------------------------------


def test_a_changed_manifest_is_refused():
    raw = signed(signature())
    assert "one of them was changed" in refusal(raw.replace(b"amd64", b"arm64"))


def test_one_signature_that_does_not_fit_among_several_is_refused():
    stranger = ec.generate_private_key(ec.SECP256R1())
    forged = {**signature(), "header": {"jwk": jwk(stranger), "alg": "ES256"}}
    assert "signature 2 does not fit" in refusal(signed(signature(), forged))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS512", "EdDSA", "PS256", "", None, 256])
def test_an_algorithm_that_proves_nothing_is_refused(algorithm):
    entry = {**signature(), "header": {"jwk": jwk(KEYS["ES256"]), "alg": algorithm}}
    assert "proves nothing" in refusal(signed(entry))
    assert "proves nothing" in refusal(signed({**entry, "signature": ""}))


def test_an_hmac_with_the_public_key_as_its_secret_is_refused():
    entry = {**signature(), "header": {"jwk": {"kty": "oct", "k": "c2VjcmV0"}, "alg": "HS256"}}
    assert "proves nothing" in refusal(signed(entry))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"alg": "ES256"}, "without a key"),
        ({"alg": "ES256", "jwk": "text"}, "without a key"),
        ({"alg": "ES256", "jwk": {"kty": "oct", "k": "AA"}}, "kind 'oct'"),
        ({"alg": "ES256", "jwk": {**jwk(KEYS["ES256"]), "crv": "secp256k1"}}, "curve 'secp256k1'"),
        ({"alg": "ES256", "jwk": {**jwk(KEYS["ES256"]), "x": text(b"\1" * 32)}}, "signature 1"),
        ({"alg": "ES256", "jwk": {**jwk(KEYS["ES256"]), "y": None}}, "its key has no y"),
        ({"alg": "ES256", "jwk": {**jwk(KEYS["ES256"]), "kid": "ABCD"}}, "another id"),
        ({"alg": "ES384", "jwk": jwk(KEYS["ES256"])}, "does not go with ES384"),
        ({"alg": "ES256", "jwk": jwk(KEYS["ES384"])}, "does not go with ES256"),
        ({"alg": "ES256", "jwk": jwk(RSA_KEY)}, "does not go with ES256"),
        ({"alg": "RS256", "jwk": jwk(KEYS["ES256"])}, "does not go with RS256"),
        ({"alg": "RS256", "jwk": {"kty": "RSA", "e": "AQAB", "n": text(b"\xff" * 128)}}, "1024 bits"),
        ({"alg": "RS256", "jwk": {"kty": "RSA", "e": "AQAB", "n": text(b"\xff" * 4096)}}, "32768 bits"),
        ({"alg": "RS256", "jwk": {"kty": "RSA", "e": "AA", "n": text(b"\xff" * 256)}}, "signature 1"),
        ({"alg": "ES256", "x5c": []}, "not a list of texts"),
        ({"alg": "ES256", "x5c": ["!"]}, "signature 1"),
        ({"alg": "ES256", "x5c": [text(b"no certificate")]}, "signature 1"),
        ({"alg": "ES256", "x5c": [certificate(ed25519.Ed25519PrivateKey.generate(), KEYS["ES256"])]}, "neither"),
        ({"alg": "ES256", "x5c": [certificate(KEYS["ES256"])], "jwk": jwk(RSA_KEY)}, "not the one in its certificate"),
        ({"alg": "ES256", "jwk": jwk(KEYS["ES256"]), "crit": ["exp"]}, "extension"),
        ("text", "no header"),
    ],
)
def test_a_key_that_does_not_go_with_the_signature_is_refused(header, says):
    assert says in refusal(signed(signature(header=header)))


@pytest.mark.parametrize("wrong", ["", "AAAA", text(b"\0" * 64), text(b"\xff" * 64), text(b"\1" * 65), 7, None])
def test_a_signature_of_other_bytes_is_refused(wrong):
    refusal(signed({**signature(), "signature": wrong}))


def test_two_algorithms_for_one_signature_are_refused():
    assert "'ES256 or none'" in refusal(signed(signature(more={"alg": "none"})))


def test_a_thousand_signatures_are_refused_before_any_is_verified():
    assert "more than anybody writes" in refusal(signed(*[signature()] * 1000))


@pytest.mark.parametrize(
    "raw", [b"{}", b"[]", b"no", PAYLOAD, PAYLOAD.replace(b'"schemaVersion": 1', b'"schemaVersion": 2')]
)
def test_what_is_not_a_signed_manifest_is_said_to_be_none(raw):
    refusal(raw, BadManifest)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert 'pip install "regaudit[schema1]"' in refusal(signed(signature()), MissingExtra)


# -- as a registry sends them -----------------------------------------------------------------


def test_the_client_verifies_and_says_by_which_key(sandbox, registry):
    raw = signed(signature())
    sandbox.store.put_manifest("team/app", "1.0", SCHEMA1_SIGNED, raw)
    read = registry.repository("team/app").manifest("1.0")
    assert isinstance(read, LegacyManifest)
    assert read.signed_by == verify_signatures(raw)
    assert parse_manifest(raw, SCHEMA1_SIGNED).signed_by == ()


@pytest.mark.parametrize("algorithm", ["none", "ES256"])
def test_the_client_refuses_what_is_not_signed_as_it_says(sandbox, registry, algorithm):
    forged = {**signature(), "header": {"jwk": jwk(ec.generate_private_key(ec.SECP256R1())), "alg": algorithm}}
    sandbox.store.put_manifest("team/app", "1.0", SCHEMA1_SIGNED, signed(forged))
    with pytest.raises(BadSignature, match=r"manifests/1\.0: signature 1"):
        registry.repository("team/app").manifest("1.0")


def test_an_unsigned_manifest_is_read_and_signed_by_nobody(sandbox, registry):
    sandbox.store.put_manifest("team/app", "1.0", SCHEMA1_PLAIN, PAYLOAD)
    assert registry.repository("team/app").manifest("1.0").signed_by == ()


def test_without_the_package_the_client_says_that_it_did_not_verify(sandbox, registry, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    sandbox.store.put_manifest("team/app", "1.0", SCHEMA1_SIGNED, signed(signature()))
    with caplog.at_level(logging.WARNING, "regaudit.client"):
        read = registry.repository("team/app").manifest("1.0")
    assert (read.digest, read.signed_by) == (Digest.of(PAYLOAD), ())
    assert 'were not verified: pip install "regaudit[schema1]"' in caplog.text
    nobody = {**signature(), "header": {"alg": "none"}}
    sandbox.store.put_manifest("team/app", "2.0", SCHEMA1_SIGNED, signed(nobody))
    with pytest.raises(BadSignature, match="proves nothing"):
        registry.repository("team/app").manifest("2.0")


@pytest.mark.real
def test_what_a_real_registry_signs_is_verified_and_its_key_has_the_id_that_it_names(docker_registry):
    with Registry(docker_registry.host) as registry:
        push_docker_image(registry.repository("team/app"), "1.0")
    request = urllib.request.Request(
        f"{docker_registry.url}/v2/team/app/manifests/1.0", headers={"Accept": SCHEMA1_SIGNED}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        raw, announced = answer.read(), answer.headers["Docker-Content-Digest"]
    assert digest_of_document(raw) == announced
    named = [entry["header"]["jwk"]["kid"] for entry in json.loads(raw)["signatures"]]
    assert list(verify_signatures(raw)) == named
    assert "one of them was changed" in refusal(raw.replace(b'"amd64"', b'"arm64"'))


def push_docker_image(repository, tag):
    """Push an image that docker-registry can convert: of docker's types, with a history."""
    layer, config, manifest = tiny_image()
    described = {**json.loads(config), "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "make"}]}
    config = json.dumps(described).encode()
    for data in (layer, config):
        repository.upload_blob(data)
    document = json.loads(manifest)
    document["mediaType"] = DOCKER_MANIFEST
    document["config"] = {"mediaType": DOCKER_CONFIG, "digest": Digest.of(config), "size": len(config)}
    document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    repository.put_manifest(tag, json.dumps(document).encode(), DOCKER_MANIFEST)
