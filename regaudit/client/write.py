"""Changing a registry: one conversation per endpoint that stores a manifest or deletes. Blobs go up in `upload`.

Only the cleaner and the registry object use this module. A deletion returns the response as it
is: what a status means is decided where the state is read afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import closing
from typing import Any
from urllib.parse import quote

from regaudit.client import grants, v1
from regaudit.client.auth import ask, delete_scopes, refusal, repository_scope
from regaudit.client.exchange import (
    DELETE_DEADLINE,
    MANIFEST_CAP,
    Conversation,
    Request,
    Response,
    Session,
    Source,
    send,
)
from regaudit.client.v2 import fallback_index, get_manifest, listed_referrers, manifest_url
from regaudit.errors import BadResponse, DigestMismatch, NotFound
from regaudit.manifest import OCI_INDEX, AnyManifest, Descriptor, Index, Manifest, digest_of_document, parse_manifest
from regaudit.reference import Digest, attached_tag, check_repository, check_tag
from regaudit.text import clean, safe_url


def put_manifest(
    session: Session, repository: str, reference: str, raw: bytes, media_type: str
) -> Conversation[Digest]:
    """Store a manifest, byte for byte, under a tag or under its digest, and return its digest.

    One with a subject is listed under the subject's fallback tag too, where the registry does not
    keep such lists itself, as the specification asks of a client.

    Raises
    ------
    DigestMismatch
        `reference` is a digest that the bytes do not hash to, or the registry stored other bytes.
    UnexpectedStatus, AccessDenied, …
        The registry refuses it, for example because a blob is gone (MANIFEST_BLOB_UNKNOWN).
    """
    response = yield from _store(session, repository, reference, raw, media_type)
    if not response.headers.get("oci-subject"):
        yield from _list_in_fallback(session, repository, raw, media_type)
    return _expected(reference, raw)


def restore_manifest(
    session: Session, repository: str, reference: str, raw: bytes, media_type: str
) -> Conversation[Digest]:
    """Store a manifest as `put_manifest` does, and touch nothing else: its fallback list is restored by itself."""
    yield from _store(session, repository, reference, raw, media_type)
    return _expected(reference, raw)


def _store(session: Session, repository: str, reference: str, raw: bytes, media_type: str) -> Conversation[Response]:
    own = digest_of_document(raw)  # of a signed schema 1 manifest, that of what is signed
    if ":" in reference and reference != own and not Digest(reference).matches(raw):
        raise DigestMismatch(f"the manifest does not hash to {clean(reference, 100)}: nothing was sent")
    url = manifest_url(session, repository, reference)
    headers = {"Content-Type": media_type}
    request = Request("PUT", url, "put", headers, body=raw, cap=MANIFEST_CAP, deadline=DELETE_DEADLINE)
    response = yield from ask(session, request, (repository_scope(repository, "pull,push"),))
    what = f"storing {session.host}/{repository}:{reference}"
    if response.status not in {200, 201}:
        raise refusal(session, response, what)
    announced = response.headers.get("docker-content-digest", "").strip()
    if announced and announced not in {own, _expected(reference, raw)}:
        raise DigestMismatch(f"{what}: the registry stored it as {clean(announced, 100)}", url=safe_url(url))
    return response


def _expected(reference: str, raw: bytes) -> Digest:
    return Digest(reference) if ":" in reference else digest_of_document(raw)


def delete_manifest(session: Session, repository: str, digest: Digest) -> Conversation[Response]:
    """Ask for a manifest and all its tags to be deleted, and return the response, whatever it is.

    Raises
    ------
    RedirectRefused
        A redirect; nothing is sent to its target.
    """
    return (yield from _delete(session, repository, f"manifests/{digest}"))


def delete_tag(session: Session, repository: str, tag: str) -> Conversation[Response]:
    """Ask for a tag alone to be deleted, and return the response. Not every registry offers this."""
    return (yield from _delete(session, repository, f"manifests/{check_tag(tag)}"))


def delete_blob(session: Session, repository: str, digest: Digest) -> Conversation[Response]:
    """Ask for a blob to be taken out of a repository, used or not, and return the response, whatever it is."""
    return (yield from _delete(session, repository, f"blobs/{digest}"))


def unlist_referrer(session: Session, repository: str, manifest: AnyManifest) -> Conversation[None]:
    """Take a deleted manifest off the list under its subject's fallback tag, where a client keeps such lists.

    As the specification asks of whoever deletes a manifest with a subject on a registry without the
    referrers interface. A list that is left empty stays: deleting it by digest could take other tags along.
    """
    if manifest.subject is None:
        return
    listed = yield from listed_referrers(session, repository, manifest.subject.digest)
    if listed is not None:
        return  # the registry keeps the list itself
    index = yield from fallback_index(session, repository, manifest.subject.digest)
    if index is None or all(entry["digest"] != manifest.digest for entry in index.to_dict()["manifests"]):
        return
    tag = attached_tag(manifest.subject.digest)
    yield from _store(session, repository, tag, without_entries(index, {str(manifest.digest)}), index.media_type)


def without_entries(index: Index, digests: AbstractSet[str]) -> bytes:
    """Return the bytes of a list without the entries of some digests; all else stays, fields unknown here included."""
    document = index.to_dict()
    return _dump(document | {"manifests": [e for e in document["manifests"] if e["digest"] not in digests]})


def with_entries(index: Index, entries: Iterable[dict[str, Any]]) -> bytes:
    """Return the bytes of a list with more entries, each digest once."""
    document = index.to_dict()
    there = {entry["digest"] for entry in document["manifests"]}
    more = [entry for entry in entries if entry["digest"] not in there]
    return _dump(document | {"manifests": [*document["manifests"], *more]})


def _delete(session: Session, repository: str, path: str) -> Conversation[Response]:
    url = session.url(f"/v2/{check_repository(repository)}/{path}")
    request = Request("DELETE", url, "delete", deadline=DELETE_DEADLINE)
    return (yield from ask(session, request, delete_scopes(repository)))


def _list_in_fallback(session: Session, repository: str, raw: bytes, media_type: str) -> Conversation[None]:
    """List a referrer under its subject's fallback tag, as the specification asks where the registry does not do it."""
    if b'"subject"' not in raw:
        return  # stored, whether or not it is a kind of manifest that is known here
    manifest = parse_manifest(raw, media_type)
    if manifest.subject is None:
        return
    tag = attached_tag(manifest.subject.digest)
    try:
        current = yield from get_manifest(session, repository, tag)
    except NotFound:
        current = None
    if current is not None and not isinstance(current, Index):
        raise BadResponse(f"{session.host}/{repository}:{tag} is no index, so that the referrer cannot be listed there")
    # What others have written there stays as it is, fields that are not known here included.
    empty: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    index = empty if current is None else current.to_dict()
    if any(entry["digest"] == manifest.digest for entry in index["manifests"]):
        return
    index["manifests"].append(_entry(manifest).to_dict())
    yield from _store(session, repository, tag, _dump(index), OCI_INDEX if current is None else current.media_type)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _entry(manifest: AnyManifest) -> Descriptor:
    """Return how an index of referrers lists a manifest (distribution spec, "Listing Referrers")."""
    kind = manifest.artifact_type
    if kind is None and isinstance(manifest, Manifest):
        kind = manifest.config.media_type
    return Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=len(manifest.raw),
        artifact_type=kind,
        annotations=manifest.annotations,
    )


# -- v1 --------------------------------------------------------------------------------------


def put_layer_v1(
    session: grants.SessionV1, repository: str, image_id: str, body: Source, about: bytes | None
) -> Conversation[None]:
    """Store a layer; where its image JSON is given, that before it, and docker's checksum after it."""
    path = f"/v1/images/{v1.check_image_id(image_id)}"
    what = f"storing the layer {clean(image_id, 12)} in {session.http.host}/{repository}"
    if about is not None:
        yield from _open_v1(session, repository, what, image_id)
        request = Request("PUT", "", "put", {"Content-Type": "application/json"}, body=about)
        yield from _written_v1(session, repository, f"{path}/json", request, what, image_id)
    headers = {"Content-Type": "application/octet-stream"}
    layer = Request("PUT", "", "upload", headers, body=body, deadline=None)
    yield from _written_v1(session, repository, f"{path}/layer", layer, what, image_id)
    if about is not None:
        with closing(body.open()) as reader:
            checksum = {"X-Docker-Checksum-Payload": v1.payload_checksum(about, reader)}
        request = Request("PUT", "", "put", checksum, body=b"")
        yield from _written_v1(session, repository, f"{path}/checksum", request, what, image_id)


def put_tag_v1(session: grants.SessionV1, repository: str, tag: str, image_id: str) -> Conversation[None]:
    """Point a tag at an image."""
    path = f"/v1/repositories/{repository}/tags/{quote(check_tag(tag))}"
    body = json.dumps(v1.check_image_id(image_id)).encode()
    request = Request("PUT", "", "put", {"Content-Type": "application/json"}, body=body, deadline=DELETE_DEADLINE)
    yield from _written_v1(
        session, repository, path, request, f"storing {session.http.host}/{repository}:{tag}", image_id
    )


def delete_tag_v1(session: grants.SessionV1, repository: str, tag: str) -> Conversation[None]:
    """Delete a tag; its image stays."""
    path = f"/v1/repositories/{repository}/tags/{quote(check_tag(tag))}"
    request = Request("DELETE", "", "delete", deadline=DELETE_DEADLINE)
    yield from _written_v1(session, repository, path, request, f"deleting {session.http.host}/{repository}:{tag}")


def delete_repository_v1(session: grants.SessionV1, repository: str) -> Conversation[None]:
    """Delete a repository with all its tags."""
    request = Request("DELETE", "", "delete", deadline=DELETE_DEADLINE)
    what = f"deleting {session.http.host}/{repository}"
    yield from _written_v1(session, repository, f"/v1/repositories/{repository}/", request, what)
    session.grants.pop(repository, None)


def _written_v1(
    session: grants.SessionV1, repository: str, path: str, request: Request, what: str, image_id: str | None = None
) -> Conversation[None]:
    """Send what changes something, with a grant to write where the one to read does not suffice.

    `image_id` is what is being stored, if anything: a repository then comes into being with it.
    """
    try:
        response = yield from grants.ask(session, repository, path, request)
    except NotFound:
        if image_id is None:
            raise
        response = None
    grant = session.grants.get(repository)
    if response is None or (response.status in {401, 403} and not (grant is not None and grant.writes)):
        yield from _open_v1(session, repository, what, image_id)
        response = yield from grants.ask(session, repository, path, request)
    if response.status not in {200, 201, 202, 204}:
        raise grants.refusal(session, response, what, granted=True)


def _open_v1(session: grants.SessionV1, repository: str, what: str, image_id: str | None) -> Conversation[None]:
    """Ask the registry for a grant to write, as docker does before a push: by announcing the images to come."""
    announced = [] if image_id is None else [{"id": image_id}]
    headers = {"Content-Type": "application/json", "X-Docker-Token": "true"}
    if (password := grants.basic(session)) is not None:
        headers["Authorization"] = password
    url = session.http.url(f"/v1/repositories/{repository}/")
    body = json.dumps(announced).encode()
    response = yield from send(session.http, Request("PUT", url, "put", headers, body=body, cap=MANIFEST_CAP))
    if response.status not in {200, 201, 204}:
        raise grants.refusal(session, response, what)
    grant = grants.grant_of(session, repository, response)
    grant.writes = True
    session.grants[repository] = grant
