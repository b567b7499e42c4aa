"""Signatures of Docker's schema 1: whose they are, and whether they fit what the manifest says.

A signed manifest is a JSON Web Signature (RFC 7515) turned inside out: the signatures stand in the
document that they sign, and the protected header of each says which bytes those are. Its keys come
along (RFC 7517), so that a signature shows that nothing was changed since, and by which key; whether
that key is to be trusted is for the reader to know.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from regaudit.errors import BadManifest, BadSignature, MissingExtra
from regaudit.manifest import AnyManifest, LegacyManifest, base64url, load_json, signed_payload
from regaudit.text import clean

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = EllipticCurvePublicKey | RSAPublicKey

_log = logging.getLogger("regaudit.client")

# RFC 7518, section 3.1: the bits of SHA-2, and the curve that goes with them (none: RSA, PKCS #1 v1.5).
# "none" signs nothing, and HS* has no public key: whoever can check it can forge it.
_ALGORITHMS = {
    "ES256": (256, "P-256"),
    "ES384": (384, "P-384"),
    "ES512": (512, "P-521"),
    "RS256": (256, None),
    "RS384": (384, None),
    "RS512": (512, None),
}
_CURVES = {"P-256": "secp256r1", "P-384": "secp384r1", "P-521": "secp521r1"}
_SMALLEST_RSA = 2048  # bits, RFC 7518, section 3.3
_LARGEST_RSA = 8192  # bits; more only costs time
_MOST_SIGNATURES = 64  # docker writes one


@dataclass(frozen=True, slots=True)
class _Signature:
    algorithm: str
    signature: bytes
    signed: bytes
    header: dict[str, Any]


def verify_signatures(raw: bytes) -> tuple[str, ...]:
    """Verify every signature of a signed schema 1 manifest, and return whose they are.

    Parameters
    ----------
    raw : bytes
        The manifest as the registry sent it.

    Returns
    -------
    tuple of str
        The key of each signature by its id, as docker writes it: ``TF3V:GYFO:…``, a hash of the public key.

    Raises
    ------
    BadSignature
        One that does not fit, or is of an algorithm that proves nothing (``none``, ``HS256``).
    BadManifest
        Not a signed schema 1 manifest, or one that says other things than what is signed.
    MissingExtra
        The package that verifies is not installed.
    """
    signatures = list(_signatures(raw))
    if not installed():
        raise MissingExtra('verifying signatures needs cryptography: pip install "regaudit[schema1]"')
    return tuple(_verify(signature, number) for number, signature in enumerate(signatures, 1))


def with_signers(manifest: AnyManifest) -> AnyManifest:
    """Return a manifest with the keys that signed it in `signed_by`, where it is schema 1 and signed.

    Without the package that verifies, the algorithms and the signed text are checked all the same, and
    the log says that the signatures were not.
    """
    if not isinstance(manifest, LegacyManifest) or not manifest.to_dict().get("signatures"):
        return manifest
    if installed():
        return replace(manifest, signed_by=verify_signatures(manifest.raw))
    list(_signatures(manifest.raw))
    _log.warning(
        'the signatures of %s:%s were not verified: pip install "regaudit[schema1]"',
        clean(manifest.name, 255),
        clean(manifest.tag, 128),
    )
    return manifest


def installed() -> bool:
    """Return whether signatures can be verified here."""
    return importlib.util.find_spec("cryptography") is not None


def _signatures(raw: bytes) -> Iterator[_Signature]:
    document = load_json(raw)
    if not isinstance(document, dict) or document.get("schemaVersion") != 1 or not document.get("signatures"):
        raise BadManifest("this is not a signed schema 1 manifest")
    payload = base64.urlsafe_b64encode(signed_payload(raw, document)).rstrip(b"=")
    entries = document["signatures"]
    if len(entries) > _MOST_SIGNATURES:
        raise BadSignature(f"the manifest has {len(entries)} signatures, more than anybody writes")
    for number, entry in enumerate(entries, 1):
        yield _signature(entry, payload, number)


def _signature(entry: dict[str, Any], payload: bytes, number: int) -> _Signature:
    header, signature = entry.get("header"), entry.get("signature")
    if not isinstance(header, dict) or not isinstance(signature, str):
        raise BadSignature(f"signature {number} of the manifest has no header or no signature")
    protected = load_json(base64url(entry["protected"]))
    names = {str(name) for name in (header.get("alg"), protected.get("alg")) if name is not None}
    algorithm = next(iter(names), "none")
    if len(names) > 1 or algorithm not in _ALGORITHMS:
        raise BadSignature(
            f"signature {number} of the manifest is of the algorithm {clean(' or '.join(sorted(names)) or 'none', 60)!r}, "
            f"which proves nothing here: {', '.join(_ALGORITHMS)} do"
        )
    if "crit" in header or "crit" in protected:  # RFC 7515, section 4.1.11: what is not understood is refused
        raise BadSignature(f"signature {number} of the manifest demands an extension that is not known here")
    signed = entry["protected"].encode("ascii") + b"." + payload
    return _Signature(algorithm, base64url(signature), signed, header)


def _verify(signature: _Signature, number: int) -> str:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        key = _key(signature.header)
        _check(signature, key)
    except InvalidSignature:
        raise BadSignature(f"signature {number} does not fit the manifest: one of them was changed") from None
    except (BadSignature, ValueError, UnsupportedAlgorithm) as error:
        raise BadSignature(f"signature {number} of the manifest: {clean(error, 200)}") from None
    return _key_id(key)


def _check(signature: _Signature, key: PublicKey) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    bits, curve = _ALGORITHMS[signature.algorithm]
    hashing = getattr(hashes, f"SHA{bits}")()
    if not isinstance(key, EllipticCurvePublicKey):
        if curve is not None:
            raise BadSignature(f"its key does not go with {signature.algorithm}")
        key.verify(signature.signature, signature.signed, PKCS1v15(), hashing)
        return
    if curve is None or key.curve.name != _CURVES[curve]:
        raise BadSignature(f"its key does not go with {signature.algorithm}")
    size = (key.key_size + 7) // 8
    if len(signature.signature) != 2 * size:
        raise BadSignature(f"it has {len(signature.signature)} bytes, where {signature.algorithm} has {2 * size}")
    halves = signature.signature[:size], signature.signature[size:]
    key.verify(encode_dss_signature(*map(int.from_bytes, halves)), signature.signed, ECDSA(hashing))


def _key(header: dict[str, Any]) -> PublicKey:
    """Return the key of a signature: the first certificate's, or the one in its header."""
    chain = header.get("chain", header.get("x5c"))  # docker's word, and the standard's
    if chain is None:
        return _jwk(header.get("jwk"))
    key = _certified(chain)
    if header.get("jwk") is not None and _key_id(_jwk(header["jwk"])) != _key_id(key):
        raise BadSignature("its key is not the one in its certificate")
    return key


def _certified(chain: Any) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import load_der_x509_certificate

    if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
        raise BadSignature("its certificates are not a list of texts")
    key = load_der_x509_certificate(base64.b64decode(chain[0], validate=True)).public_key()
    if isinstance(key, RSAPublicKey):
        return _bounded(key)
    if isinstance(key, EllipticCurvePublicKey):
        return key
    raise BadSignature("the key of its certificate is neither of an elliptic curve nor RSA")


def _jwk(fields: Any) -> PublicKey:
    if not isinstance(fields, dict):
        raise BadSignature("it comes without a key")
    kind = fields.get("kty")
    if kind not in {"EC", "RSA"}:
        raise BadSignature(f"its key is of the kind {clean(kind, 40)!r}, which is not known here")
    key = _elliptic(fields) if kind == "EC" else _rsa(fields)
    if fields.get("kid") not in {None, _key_id(key)}:
        raise BadSignature("its key has another id than the one it names")
    return key


def _elliptic(fields: dict[str, Any]) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = _CURVES.get(str(fields.get("crv")))
    if curve is None:
        raise BadSignature(f"the curve {clean(fields.get('crv'), 40)!r} of its key is not known here")
    point = _number(fields, "x"), _number(fields, "y")
    return ec.EllipticCurvePublicNumbers(*point, getattr(ec, curve.upper())()).public_key()


def _rsa(fields: dict[str, Any]) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    modulus = _number(fields, "n")
    if modulus.bit_length() > _LARGEST_RSA:  # before anything is computed with it
        raise BadSignature(f"its RSA key has {modulus.bit_length()} bits")
    return _bounded(RSAPublicNumbers(_number(fields, "e"), modulus).public_key())


def _bounded(key: RSAPublicKey) -> RSAPublicKey:
    if not _SMALLEST_RSA <= key.key_size <= _LARGEST_RSA:
        raise BadSignature(f"its RSA key has {key.key_size} bits, and {_SMALLEST_RSA} to {_LARGEST_RSA} are accepted")
    return key


def _number(fields: dict[str, Any], name: str) -> int:
    text = fields.get(name)
    if not isinstance(text, str):
        raise BadSignature(f"its key has no {name}")
    return int.from_bytes(base64url(text))


def _key_id(key: PublicKey) -> str:
    """Return docker's id of a key: 240 bits of the hash of its DER form, in base 32, in groups of four."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode("ascii")
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))
