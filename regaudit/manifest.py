"""Documents: what a registry stores about an image, parsed once, with their raw bytes kept.

A digest is defined on bytes, so every document carries the bytes that it was parsed from; a
deletion is undone by sending exactly these. The field names are those of the OCI image
specification 1.1; Docker's schema 2 maps onto them, its schema 1 is read only.
"""

from __future__ import annotations

import base64
import binascii
import copyreg
import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

from regaudit.errors import BadManifest, InvalidReference
from regaudit.reference import Digest, Platform
from regaudit.text import clean, parse_time

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
SCHEMA1_PLAIN = "application/vnd.docker.distribution.manifest.v1+json"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
SCHEMA1_TYPES = frozenset({SCHEMA1_SIGNED, SCHEMA1_PLAIN})
IMAGE_CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})

# Schema 1 comes last: with `*/*`, or with nothing, Debian's docker-registry 2.8.2 converts to schema 1 and
# answers with a digest that it does not have.
_ACCEPTED_SCHEMA1 = (SCHEMA1_SIGNED + ";q=0.5", SCHEMA1_PLAIN + ";q=0.4")


@cache
def accept_manifests(*, max_schema_version: int = 2, indexes: bool = True) -> str:
    """Return the Accept header of a request for a manifest. Nothing asks for one with another header.

    Parameters
    ----------
    max_schema_version : int
        1 asks for Docker's schema 1 alone.
    indexes : bool
        False leaves the indexes out; a registry may then answer with a child of its own choice.
    """
    if max_schema_version == 1:
        return ", ".join(_ACCEPTED_SCHEMA1)
    types = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
    return ", ".join((*(kind for kind in types if indexes or kind not in INDEX_TYPES), *_ACCEPTED_SCHEMA1))


ACCEPT_MANIFESTS = accept_manifests()

# What cosign, notation and sigstore bundles write: a manifest that signs another one.
_SIGNATURE_TYPES = frozenset(
    {
        "application/vnd.dev.cosign.simplesigning.v1+json",
        "application/vnd.dev.cosign.artifact.sig.v1+json",
        "application/vnd.cncf.notary.signature",
    }
)
# Fields that make a document readable as one of another kind (CVE-2021-41190).
_FOREIGN_FIELDS = {
    "index": frozenset({"config", "layers", "fsLayers"}),
    "manifest": frozenset({"manifests", "fsLayers"}),
    "schema1": frozenset({"config", "layers", "manifests"}),
}
_SIGNATURE_PREFIX = "application/vnd.dev.sigstore.bundle"
_IN_TOTO = "application/vnd.in-toto+json"

# BuildKit marks the attestation children of an index so (its "Image attestation storage").
_ATTESTATION_ANNOTATION = "vnd.docker.reference.type"

# Documents nest a handful of levels; 64 is far above any, and far below Python's recursion limit.
_DEEPEST = 64
# It comes with the extra `fast`; what is read is the same without it.
orjson: Any = importlib.import_module("orjson") if importlib.util.find_spec("orjson") else None
_SPACES = b" \t\n\r"
_LONGEST_NUMBER = 19  # digits of 2**63 - 1
LARGEST_SIZE = 2**63 - 1

# A document may be shared by all who read it (`parse_manifest`), so that nobody may change what it says.
Annotations: TypeAlias = Mapping[str, str]
_NO_ANNOTATIONS: Annotations = MappingProxyType({})


def _shown(texts: dict[str, str]) -> MappingProxyType[str, str]:
    return MappingProxyType(texts)


copyreg.pickle(MappingProxyType, lambda shown: (_shown, (dict(shown),)))  # it has no way of its own

# Docker's first public release: no image is older, so an earlier time is a build tool's constant
# (0001-01-01, 1970-01-01, 1980-01-01), not an age.
FIRST_IMAGE = datetime(2013, 3, 20, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to content: its media type, digest and size in bytes, as the pointing document declares them."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    artifact_type: str | None = None
    annotations: Annotations = field(default_factory=lambda: _NO_ANNOTATIONS)

    @property
    def is_attestation(self) -> bool:
        """Whether an index lists this child as an attestation of a sibling, not as an image to run."""
        return self.annotations.get(_ATTESTATION_ANNOTATION) == "attestation-manifest"

    def to_dict(self) -> dict[str, Any]:
        """Return the descriptor as the image specification writes it."""
        fields: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.artifact_type:
            fields["artifactType"] = self.artifact_type
        if self.platform:
            fields["platform"] = self.platform.to_dict()
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        return fields


@dataclass(frozen=True, slots=True)
class _Document:
    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest(_Document):
    """An image or artifact: a config and layers (an artifact may have none)."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Annotations = field(default_factory=lambda: _NO_ANNOTATIONS)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config, then the layers in order."""
        return (self.config, *self.layers)

    @property
    def kind(self) -> str:
        """``image``, ``artifact`` or ``signature``."""
        types = {layer.media_type for layer in self.layers}
        purpose = self.artifact_type or ""
        if types & _SIGNATURE_TYPES or purpose in _SIGNATURE_TYPES or purpose.startswith(_SIGNATURE_PREFIX):
            return "signature"
        if self.config.media_type not in IMAGE_CONFIG_TYPES or self.artifact_type or types == {_IN_TOTO}:
            return "artifact"
        return "image"

    def to_dict(self) -> dict[str, Any]:
        """Return the parsed JSON of the raw bytes."""
        return dict(json.loads(self.raw))


@dataclass(frozen=True, slots=True)
class Index(_Document):
    """A list of manifests, usually one for each platform; children may be indexes themselves."""

    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Annotations = field(default_factory=lambda: _NO_ANNOTATIONS)

    @property
    def kind(self) -> str:
        """Always ``index``."""
        return "index"

    def to_dict(self) -> dict[str, Any]:
        """Return the parsed JSON of the raw bytes."""
        return dict(json.loads(self.raw))


@dataclass(frozen=True, slots=True)
class LegacyManifest(_Document):
    """Docker's schema 1, read only: which layers, and the newest history entry's creation time.

    A registry may have converted it on the way out, and its digest may then not exist there; it is
    therefore never deleted by digest. `signed_by` has the ids of the keys whose signatures were
    verified; it is empty where there are none, or where the extra ``schema1`` is not installed.
    """

    name: str = ""
    tag: str = ""
    architecture: str = ""
    layers: tuple[Digest, ...] = ()
    created: datetime | None = None
    signed_by: tuple[str, ...] = ()
    subject: None = None
    artifact_type: None = None
    annotations: Annotations = field(default_factory=lambda: _NO_ANNOTATIONS)

    @property
    def kind(self) -> str:
        """Always ``legacy``."""
        return "legacy"

    def to_dict(self) -> dict[str, Any]:
        """Return the parsed JSON of the raw bytes."""
        return dict(json.loads(self.raw))


AnyManifest = Manifest | Index | LegacyManifest


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image's config says of it; each field is None or empty where the config is silent."""

    raw: bytes = field(repr=False)
    created: datetime | None = None
    platform: Platform | None = None
    labels: dict[str, str] = field(default_factory=dict)
    author: str | None = None
    history: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the parsed JSON of the raw bytes."""
        return dict(json.loads(self.raw))


def parse_manifest(raw: bytes, media_type: str = "") -> AnyManifest:
    """Return the document in some bytes.

    Parameters
    ----------
    raw : bytes
        As the registry sent them.
    media_type : str, optional
        The Content-Type of the reply. It decides; the document's own ``mediaType`` may be missing
        but must not contradict it (CVE-2021-41190).

    Returns
    -------
    Manifest, Index or LegacyManifest
        With ``raw`` and its sha256 ``digest`` (of schema 1: over the signed payload).

    Raises
    ------
    BadManifest
        Not such a document: not JSON, too deep, duplicate keys, both layers and manifests, a size
        outside 0…2^63-1, a type that contradicts itself.
    """
    return (_parsed_before if len(raw) <= _SHORT else _parsed)(raw, media_type)


def _parsed(raw: bytes, media_type: str) -> AnyManifest:
    document = load_json(raw)
    if not isinstance(document, dict):
        raise BadManifest("the manifest is not a JSON object")
    if "layers" in document and "manifests" in document:
        raise BadManifest("the manifest has both layers and manifests, so that two readers may see two images")
    named = media_type.partition(";")[0].strip().lower()
    kind = _media_type(document, named)
    digest = digest_of_document(raw, document)
    try:
        if kind in SCHEMA1_TYPES:
            return _legacy(raw, kind, digest, document)
        if kind in INDEX_TYPES:
            return _index(raw, kind, digest, document)
        return _manifest(raw, kind, digest, document)
    except InvalidReference as error:
        raise BadManifest(str(error)) from None


# Several tags are on one manifest, and often come one after the other. What is remembered is bounded: these many short ones.
_SHORT = 16 << 10
_parsed_before = lru_cache(maxsize=256)(_parsed)


def digest_of_document(raw: bytes, document: Any = None) -> Digest:
    """Return the digest by which a registry knows a document, for every schema.

    Signed schema 1 is hashed over its signed payload: the bytes before the signatures were added.
    """
    if b'"signatures"' not in raw:
        return Digest.of(raw)
    parsed = load_json(raw) if document is None else document
    if not isinstance(parsed, dict) or parsed.get("schemaVersion") != 1 or not parsed.get("signatures"):
        return Digest.of(raw)
    return Digest.of(signed_payload(raw, parsed))


def signed_payload(raw: bytes, document: dict[str, Any]) -> bytes:
    """Return what is signed of a signed schema 1 manifest: its bytes before the signatures were put in.

    Raises
    ------
    BadManifest
        The signatures do not say which bytes these are, or mean different ones, or the manifest says
        something that is not in them.
    """
    signatures = document["signatures"]
    if not isinstance(signatures, list) or not all(isinstance(entry, dict) for entry in signatures):
        raise BadManifest("the schema 1 manifest's signatures are not a list of objects")
    length, tail = _signed_part(signatures[0], len(raw))
    if any(_signed_part(entry, len(raw)) != (length, tail) for entry in signatures[1:]):
        raise BadManifest("the schema 1 manifest's signatures are of different texts")
    payload = raw[:length] + tail
    # The digest and the signatures are of the payload alone, and what is read is the whole.
    if load_json(payload) != {name: value for name, value in document.items() if name != "signatures"}:
        raise BadManifest("the schema 1 manifest says other things than what is signed of it")
    return payload


def _signed_part(signature: dict[str, Any], most: int) -> tuple[int, bytes]:
    protected = signature.get("protected")
    if not isinstance(protected, str):
        raise BadManifest("the schema 1 manifest's signature has no protected header")
    header = load_json(base64url(protected))
    length = header.get("formatLength") if isinstance(header, dict) else None
    tail = header.get("formatTail") if isinstance(header, dict) else None
    if not isinstance(length, int) or not 0 <= length <= most or not isinstance(tail, str):
        raise BadManifest("the schema 1 manifest's protected header has no valid formatLength and formatTail")
    return length, base64url(tail)


def parse_image_config(raw: bytes) -> ImageConfig:
    """Return what an image config says; raises `BadManifest` where it is not a JSON object."""
    document = load_json(raw)
    if not isinstance(document, dict):
        raise BadManifest("the image config is not a JSON object")
    container = document.get("config")
    labels = container.get("Labels") if isinstance(container, dict) else None
    history = document.get("history")
    author = document.get("author")
    return ImageConfig(
        raw=raw,
        created=parse_time(document.get("created")),
        platform=_platform(document),
        labels=_texts(labels),
        author=author if isinstance(author, str) else None,
        history=tuple(step for step in history if isinstance(step, dict)) if isinstance(history, list) else (),
    )


def believable(moment: datetime | None, now: datetime) -> datetime | None:
    """Return a creation time, or None where it is a build tool's constant or lies in the future.

    No clock is better than a wrong one: reproducible builds carry 1970-01-01 or 1980-01-01, empty
    fields read as 0001-01-01, and nothing is older than `FIRST_IMAGE`.
    """
    return moment if moment is not None and FIRST_IMAGE <= moment <= now else None


def load_json(raw: bytes) -> Any:
    """Return the value of a JSON document from a registry, read strictly.

    Refused, with `BadManifest`: anything but UTF-8 without a byte order mark, duplicate keys, NaN
    and infinities, numbers of more than 19 digits, nesting beyond 64 levels, lone surrogates.
    """
    value = _load_plain(raw)
    if value is None:
        value = _load_strictly(raw)
    if raw.count(b"{") + raw.count(b"[") > _DEEPEST and _depth(value) > _DEEPEST:
        raise BadManifest(f"the document is nested deeper than {_DEEPEST} levels")
    return value


def _load_plain(raw: bytes) -> Any:
    """Return the value of a document that orjson writes as it was read, spaces aside; None for any other.

    Whatever two readers may see differently does not come back as it was: a key that is there twice, a number
    beyond 64 bits or in an odd form, an escape that need not be. Four times as fast as the standard library.
    """
    if orjson is None:
        return None
    try:
        value = orjson.loads(raw)
        written = orjson.dumps(value)
    except (ValueError, TypeError):  # the strict reader says why
        return None
    if b"\\u00" in raw:  # Go escapes these three, and the strict reader sees to any other
        written = written.replace(b"&", b"\\u0026").replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
    return value if written.translate(None, _SPACES) == raw.translate(None, _SPACES) else None


def _load_strictly(raw: bytes) -> Any:
    try:
        value = _STRICT.decode(raw.decode("utf-8"))
    except BadManifest:
        raise
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {clean(error, 120)}"
        raise BadManifest(f"the document {reason}") from None
    if b"\\u" in raw and _has_surrogates(value):
        raise BadManifest("the document has half a surrogate pair in a text")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    raise BadManifest("the document names a key twice, so that two readers may see two values")


def _no_constant(name: str) -> Any:
    raise BadManifest(f"the document has {name}, which is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER + 1:
        raise BadManifest(f"the document has a number of {len(digits)} digits")
    return int(digits)


def _bounded_float(digits: str) -> float:
    if len(digits) > 64:
        raise BadManifest(f"the document has a number of {len(digits)} characters")
    number = float(digits)
    if math.isinf(number):
        raise BadManifest("the document has a number beyond all bounds")
    return number


# Made once: a decoder costs as much as reading a small document with it.
_STRICT = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_bounded_float, parse_int=_bounded_int
)


def _depth(value: Any) -> int:
    level, deepest = [value], 0
    while level and deepest <= _DEEPEST:
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        deepest += 1
    return deepest


def _has_surrogates(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _media_type(document: dict[str, Any], named: str) -> str:
    own = document.get("mediaType")
    if own is not None and not isinstance(own, str):
        raise BadManifest("the manifest's mediaType is not text")
    known = MANIFEST_TYPES | INDEX_TYPES | SCHEMA1_TYPES
    if named in known:
        if own and own != named and not {own, named} <= SCHEMA1_TYPES:
            raise BadManifest(f"the manifest says it is {clean(own, 100)} and was sent as {named}")
        kind = named
    else:
        kind = own or _shape(document)
    if kind not in known:
        raise BadManifest(f"{clean(kind or named or 'nothing', 100)} is not a kind of manifest that is known here")
    foreign = _FOREIGN_FIELDS["index" if kind in INDEX_TYPES else "manifest" if kind in MANIFEST_TYPES else "schema1"]
    # Without the version, signatures in the text would decide over which bytes the digest is taken.
    version = 1 if kind in SCHEMA1_TYPES else 2
    if foreign & document.keys() or document.get("schemaVersion", version) != version:
        raise BadManifest(f"the manifest was sent as {kind}, and its fields are those of another kind")
    return kind


def _shape(document: dict[str, Any]) -> str:
    if document.get("schemaVersion") == 1:
        return SCHEMA1_SIGNED if document.get("signatures") else SCHEMA1_PLAIN
    if "manifests" in document:
        return OCI_INDEX
    return OCI_MANIFEST if "config" in document else ""


def _manifest(raw: bytes, kind: str, digest: Digest, document: dict[str, Any]) -> Manifest:
    if not isinstance(document.get("config"), dict):
        raise BadManifest("the manifest has no config")
    return Manifest(
        raw=raw,
        media_type=kind,
        digest=digest,
        config=_descriptor(document["config"]),
        layers=_descriptors(document, "layers"),
        subject=_subject(document),
        artifact_type=_text(document, "artifactType"),
        annotations=_annotations(document),
    )


def _index(raw: bytes, kind: str, digest: Digest, document: dict[str, Any]) -> Index:
    if not isinstance(document.get("manifests"), list):
        raise BadManifest("the index has no list of manifests")
    return Index(
        raw=raw,
        media_type=kind,
        digest=digest,
        manifests=_descriptors(document, "manifests"),
        subject=_subject(document),
        artifact_type=_text(document, "artifactType"),
        annotations=_annotations(document),
    )


def _legacy(raw: bytes, kind: str, digest: Digest, document: dict[str, Any]) -> LegacyManifest:
    layers = document.get("fsLayers")
    if document.get("schemaVersion") != 1 or not isinstance(layers, list):
        raise BadManifest("the schema 1 manifest has no fsLayers")
    sums = [layer["blobSum"] for layer in layers if isinstance(layer, dict) and isinstance(layer.get("blobSum"), str)]
    if len(sums) != len(layers):
        raise BadManifest("the schema 1 manifest has a layer without a blobSum")
    return LegacyManifest(
        raw=raw,
        media_type=kind,
        digest=digest,
        name=_text(document, "name") or "",
        tag=_text(document, "tag") or "",
        architecture=_text(document, "architecture") or "",
        layers=tuple(Digest(text) for text in sums),
        created=_legacy_created(document),
    )


def _legacy_created(document: dict[str, Any]) -> datetime | None:
    history = document.get("history")
    newest = history[0] if isinstance(history, list) and history else None
    text = newest.get("v1Compatibility") if isinstance(newest, dict) else None
    if not isinstance(text, str):
        return None
    try:
        layer = load_json(text.encode("utf-8"))
    except BadManifest:
        return None
    return parse_time(layer.get("created")) if isinstance(layer, dict) else None


def _descriptors(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    entries = document.get(key)
    if entries is None:
        return ()
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadManifest(f"the manifest's {key} is not a list of descriptors")
    return tuple(_descriptor(entry) for entry in entries)


def _subject(document: dict[str, Any]) -> Descriptor | None:
    subject = document.get("subject")
    if subject is None:
        return None
    if not isinstance(subject, dict):
        raise BadManifest("the manifest's subject is not a descriptor")
    return _descriptor(subject)


def _descriptor(entry: dict[str, Any]) -> Descriptor:
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType")
    if not isinstance(digest, str) or not isinstance(media_type, str):
        raise BadManifest("a descriptor has no digest or no mediaType")
    if type(size) is not int or not 0 <= size <= LARGEST_SIZE:
        raise BadManifest(f"a descriptor's size is {clean(size, 40)}: it must be a whole number from 0 to 2^63-1")
    if len(entry) == 3:
        return _plain_descriptor(media_type, digest, size)
    platform = entry.get("platform")
    return Descriptor(
        media_type=media_type,
        digest=Digest(digest),
        size=size,
        platform=_platform(platform) if isinstance(platform, dict) else None,
        artifact_type=_text(entry, "artifactType"),
        annotations=_annotations(entry),
    )


# Images share their layers, so that most descriptors of an audit have been seen before.
@lru_cache(maxsize=16_384)
def _plain_descriptor(media_type: str, digest: str, size: int) -> Descriptor:
    return Descriptor(media_type, Digest(digest), size)


def _platform(fields: dict[str, Any]) -> Platform | None:
    system, architecture = _text(fields, "os"), _text(fields, "architecture")
    return Platform(system, architecture, _text(fields, "variant") or None) if system and architecture else None


def _text(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if isinstance(value, str) and value else None


def _annotations(fields: dict[str, Any]) -> Annotations:
    texts = _texts(fields.get("annotations"))
    return MappingProxyType(texts) if texts else _NO_ANNOTATIONS


def _texts(value: Any) -> dict[str, str]:
    return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}


def base64url(text: str) -> bytes:
    """Return the bytes in a text of base64url; raises `BadManifest` where it is none."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadManifest("the schema 1 manifest's signature is not base64url") from None
