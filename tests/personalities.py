"""Registries as they differ on the wire: each is a few manners over the sandbox, and says where they were read.

Used so::

    with served(PERSONALITIES["zot"]) as sandbox:
        Registry(sandbox.host).repository("team/app").delete(child)  # 405 DENIED

Only docker-registry 2.8.2 is a program that these tests run too. Every other one is made from the source or the
documentation named in `Personality.source`, and knows no more than that: what was not read there is as in the sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlencode

from regaudit.manifest import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST, SCHEMA1_TYPES
from regaudit.reference import Digest, attached_tag
from regaudit.sandbox.app import Call, Reply, error_reply
from regaudit.sandbox.login import Login
from regaudit.sandbox.server import Sandbox
from regaudit.sandbox.store import ApiError, Store

Answer: TypeAlias = Callable[[Call], Reply]
# Answers a request, itself or by asking on; what it remembers is of one sandbox.
Manner: TypeAlias = Callable[[Call, Answer], Reply]
MakeManner: TypeAlias = Callable[[Store], Manner]

USER, PASSWORD, IDENTITY_TOKEN = "ada", "correct horse", "an identity token"


@dataclass(frozen=True, kw_only=True)
class Personality:
    """How one registry behaves.

    Attributes
    ----------
    stands_for, source : str
        Which registry it is made after, and where that was read.
    options : mapping
        Those of `Sandbox`.
    manners : tuple of callables
        What is otherwise than in the sandbox; the first is asked first.
    """

    stands_for: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    manners: tuple[MakeManner, ...] = ()


@contextmanager
def served(personality: Personality) -> Iterator[Sandbox]:
    """Serve a registry of this personality, empty."""
    with Sandbox(**personality.options) as sandbox:
        application = sandbox._line._behind  # the sandbox has no place for other people's manners, and needs none
        for make in reversed(personality.manners):
            application.answer = _before(make(sandbox.store), application.answer)  # type: ignore[method-assign, union-attr]
        yield sandbox


def _before(manner: Manner, answer: Answer) -> Answer:
    def mannered(call: Call) -> Reply:
        try:
            return manner(call, answer)
        except ApiError as error:
            return error_reply(error)

    return mannered


def _deleted_digest(call: Call, store: Store) -> str | None:
    """Return the digest that a request asks to delete, if it is there."""
    asked = call.method == "DELETE" and call.route.kind == "manifests" and ":" in call.route.reference
    return call.route.reference if asked and store.manifest(call.route.name, call.route.reference) else None


def _children(store: Store, repository: str, digest: str) -> set[str]:
    found = store.manifest(repository, digest)
    entries = json.loads(found[1]).get("manifests", ()) if found is not None else ()
    return {entry["digest"] for entry in entries}


def _is_held(store: Store, repository: str, digest: str) -> bool:
    """Return whether an index of the repository lists a digest, with a tag or without."""
    return any(digest in _children(store, repository, other) for other in store.digests(repository))


def _tags_of(store: Store, repository: str, digest: str) -> set[str]:
    return {tag for tag, own in store.tags(repository).items() if own == digest}


def _asked_for(call: Call) -> int | None:
    text = call.parameter("n")
    return int(text) if text is not None and text.isdecimal() else None


def _with_number(call: Call, number: int) -> Call:
    last = call.parameter("last")
    query = urlencode({**({"last": last} if last else {}), "n": number}).encode()
    return Call(call.method, call.route, query, call.headers)


# -- what many do ----------------------------------------------------------------------------


def refuses_numbers_above(kind: str, limit: int) -> MakeManner:
    """Answer 400 where more names of a listing are asked for, and list so many repositories where no number is given."""

    def make(_: Store) -> Manner:
        def manner(call: Call, answer: Answer) -> Reply:
            number = _asked_for(call)
            if call.route.kind != kind:
                return answer(call)
            if number is not None and number > limit:
                detail = {"n": number}
                raise ApiError(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested", detail)
            return answer(_with_number(call, limit) if number is None and kind == "catalog" else call)

        return manner

    return make


def negotiates(_: Store) -> Manner:
    """Show an OCI manifest or index only to who says that it is understood."""
    names = {OCI_MANIFEST: "manifest", OCI_INDEX: "index"}

    def manner(call: Call, answer: Answer) -> Reply:
        reply = answer(call)
        kind = reply.headers.get("Content-Type", "")
        if call.route.kind == "manifests" and call.method in {"GET", "HEAD"} and kind in names:
            accepted = {part.partition(";")[0].strip() for part in call.header(b"accept").split(",")}
            if kind not in accepted:
                name = names[kind]
                words = f"OCI {name} found, but accept header does not support OCI {name}{'e' * (name == 'index')}s"
                raise ApiError(404, "MANIFEST_UNKNOWN", words)
        return reply

    return manner


def stores_whole_indexes(store: Store) -> Manner:
    """Refuse an index whose children are not there."""

    def manner(call: Call, answer: Answer) -> Reply:
        if call.route.kind == "manifests" and call.method == "PUT":
            children = [entry["digest"] for entry in json.loads(call.body).get("manifests", ())]
            missing = [digest for digest in children if store.manifest(call.route.name, digest) is None]
            if missing:
                raise ApiError(
                    400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", *({"digest": d} for d in missing)
                )
        return answer(call)

    return manner


def knows_no_schema1(_: Store) -> Manner:
    """Refuse Docker's first manifests: distribution 3.0 took out what reads them."""

    def manner(call: Call, answer: Answer) -> Reply:
        if call.method == "PUT" and call.header(b"content-type") in SCHEMA1_TYPES:
            raise ApiError(400, "MANIFEST_INVALID", "manifest invalid", {})
        return answer(call)

    return manner


# -- distribution 3.x ------------------------------------------------------------------------


def gives_tags_at_most(limit: int) -> MakeManner:
    """Give so many tags of those asked for, and all where no number is given; after a full page there may come an empty one."""

    def make(_: Store) -> Manner:
        def manner(call: Call, answer: Answer) -> Reply:
            number = _asked_for(call)
            if call.route.kind != "tags" or number is None:
                return answer(call)
            number = min(number, limit)
            reply = answer(_with_number(call, number))
            tags = json.loads(reply.body).get("tags") or []
            if reply.status != 200 or "Link" in reply.headers or len(tags) < number:
                return reply
            link = f'</v2/{call.route.name}/tags/list?{urlencode({"last": tags[-1], "n": number})}>; rel="next"'
            return reply._replace(headers={**reply.headers, "Link": link})

        return manner

    return make


def untags_although_off(store: Store) -> Manner:
    """Delete tags where deletion is switched off: 3.0.0 to 3.1.0 look at the switch for manifests only."""

    def manner(call: Call, answer: Answer) -> Reply:
        if call.method == "DELETE" and call.route.kind == "manifests" and ":" not in call.route.reference:
            store.delete_manifest(call.route.name, call.route.reference)
            return Reply(202)
        return answer(call)

    return manner


# -- strict, slow, lying ---------------------------------------------------------------------

_PARAMETERS = {
    "catalog": {"n", "last"},
    "tags": {"n", "last"},
    "referrers": {"artifactType", "last"},
    "uploads": {"mount", "from", "digest"},
    "session": {"digest"},
}


def refuses_what_it_does_not_know(_: Store) -> Manner:
    """Refuse parameters that the specification does not name, types that nobody knows, and a document that contradicts its type."""

    def manner(call: Call, answer: Answer) -> Reply:
        if unknown := set(call.query) - _PARAMETERS.get(call.route.kind, set()):
            raise ApiError(400, "UNSUPPORTED", f"the parameter {min(unknown)} is not supported")
        if call.method == "PUT" and call.route.kind == "manifests":
            media_type = call.header(b"content-type")
            known = media_type in MANIFEST_TYPES | INDEX_TYPES
            if not known or json.loads(call.body).get("mediaType", media_type) != media_type:
                raise ApiError(400, "MANIFEST_INVALID", "manifest invalid", f"{media_type} is not what the body says")
        return answer(call)

    return manner


def deletes_later(store: Store) -> Manner:
    """Accept a deletion, show the manifest to two who look, and list its tags twice more after it has gone."""
    looks: dict[tuple[str, str], int] = {}
    stale: dict[str, list[set[str]]] = {}

    def look(name: str, digest: str) -> None:
        looks[name, digest] -= 1
        if looks[name, digest] < 0:
            del looks[name, digest]
            stale[name] = [set(store.delete_manifest(name, digest))] * 2

    def manner(call: Call, answer: Answer) -> Reply:
        name, digest = call.route.name, _deleted_digest(call, store)
        if digest is not None:
            looks.setdefault((name, digest), 2)
            return Reply(202)
        if call.route.kind == "manifests" and call.method in {"GET", "HEAD"} and (name, call.route.reference) in looks:
            look(name, call.route.reference)
        reply = answer(call)
        if call.route.kind == "tags" and reply.status == 200 and stale.get(name):
            document = json.loads(reply.body)
            document["tags"] = sorted({*(document["tags"] or ()), *stale[name].pop()})
            return reply._replace(body=json.dumps(document).encode())
        return reply

    return manner


def deletes_never(store: Store) -> Manner:
    """Accept every deletion, and carry none out."""

    def manner(call: Call, answer: Answer) -> Reply:
        return answer(call) if _deleted_digest(call, store) is None else Reply(202)

    return manner


# -- those that keep what is needed ----------------------------------------------------------


def zot(store: Store) -> Manner:
    """Keep the child of an index; take with an index its children that have no tag and no other index."""

    def manner(call: Call, answer: Answer) -> Reply:
        name, digest = call.route.name, _deleted_digest(call, store)
        if digest is None:
            return answer(call)
        if _is_held(store, name, digest):
            raise ApiError(405, "DENIED", "requested access to the resource is denied", {"reference": digest})
        children = _children(store, name, digest)
        reply = answer(call)
        _take_along(store, name, children)
        return reply

    return manner


def harbor(store: Store) -> Manner:
    """As zot, with the signatures and SBOMs too; no tag is deleted here."""

    def manner(call: Call, answer: Answer) -> Reply:
        name = call.route.name
        if call.method == "DELETE" and call.route.kind == "manifests" and ":" not in call.route.reference:
            words = f"unsupported digest {call.route.reference}: invalid checksum digest format"
            raise ApiError(400, "UNSUPPORTED", words)
        digest = _deleted_digest(call, store)
        if digest is None:
            return answer(call)
        if _is_held(store, name, digest):
            raise ApiError(412, "VIOLATE_FOREIGN_KEY_CONSTRAINT", "the deleting artifact is referenced by others")
        children = _children(store, name, digest)
        accessories = {str(entry["digest"]) for entry in store.referrers(name, digest)}
        accessories |= {
            own for tag, own in store.tags(name).items() if tag.startswith(f"{attached_tag(Digest(digest))}.")
        }
        reply = answer(call)
        _take_along(store, name, children)
        for accessory in accessories & set(store.digests(name)):
            store.delete_manifest(name, accessory)
        return reply

    return manner


def _take_along(store: Store, repository: str, digests: set[str]) -> None:
    for digest in sorted(digests & set(store.digests(repository))):
        if not _tags_of(store, repository, digest) and not _is_held(store, repository, digest):
            store.delete_manifest(repository, digest)


def artifact_registry(store: Store) -> Manner:
    """Keep what has a tag, and the child of an index."""

    def manner(call: Call, answer: Answer) -> Reply:
        name, digest = call.route.name, _deleted_digest(call, store)
        if digest is None:
            return answer(call)
        if _tags_of(store, name, digest):
            words = "Manifest is still referenced by one or more tags"
            raise ApiError(400, "GOOGLE_MANIFEST_DANGLING_TAG", words)
        if _is_held(store, name, digest):
            words = "Manifest is still referenced by one or more parent images"
            raise ApiError(400, "GOOGLE_MANIFEST_DANGLING_PARENT_IMAGE", words)
        return answer(call)

    return manner


def azure(store: Store) -> Manner:
    """Keep what somebody has locked: here, what has the tag ``held``."""

    def manner(call: Call, answer: Answer) -> Reply:
        digest = _deleted_digest(call, store)
        if digest is None or "held" not in _tags_of(store, call.route.name, digest):
            return answer(call)
        words = (
            "The operation is disallowed on this registry, repository or image. View troubleshooting steps at "
            "https://aka.ms/acr/faq/#why-does-my-pull-or-push-request-fail-with-disallowed-operation"
        )
        raise ApiError(405, "REGISTRY_DISALLOWED_OPERATION", words, {})

    return manner


def docker_hub(store: Store) -> Manner:
    """Keep what has a tag or is part of an image, and delete no tag here: that is another interface."""

    def manner(call: Call, answer: Answer) -> Reply:
        name, digest = call.route.name, _deleted_digest(call, store)
        if call.method == "DELETE" and call.route.kind == "manifests" and ":" not in call.route.reference:
            raise ApiError(405, "UNSUPPORTED", "The operation is unsupported.")
        if digest is not None and (_tags_of(store, name, digest) or _is_held(store, name, digest)):
            raise ApiError(403, "DENIED", "requested access to the resource is denied")
        return answer(call)

    return manner


# -- who there is ----------------------------------------------------------------------------

_DISTRIBUTION = (negotiates, stores_whole_indexes)
_OLD = {"referrers": False, "tag_deletion": False}
_NEW = {"referrers": False}
_SPEC = "the OCI distribution specification 1.1"

PERSONALITIES = {
    "distribution 2.8": Personality(
        stands_for="Debian's docker-registry 2.8.2",
        source="the program itself, which this suite runs beside it",
        options=_OLD,
        manners=(refuses_numbers_above("catalog", 1000), *_DISTRIBUTION),
    ),
    "distribution 3.1.0": Personality(
        stands_for="distribution 3.1.0, `tags: {maxtags: 3}`, `catalog: {maxentries: 2}`",
        source="distribution/distribution registry/handlers/tags.go of 03f35e2b, catalog.go, manifests.go; "
        "releases/v3.1.0.toml, v3.1.1.toml (#4856)",
        options=_NEW,
        manners=(
            refuses_numbers_above("catalog", 2),
            refuses_numbers_above("tags", 3),
            knows_no_schema1,
            *_DISTRIBUTION,
        ),
    ),
    "distribution 3.1.2": Personality(
        stands_for="distribution 3.1.2, `tags: {maxtags: 3}`, `catalog: {maxentries: 2}`; without a referrers interface, as app.go shows",
        source="distribution/distribution 55dc4849 registry/handlers/app.go; tags.go of c6f552e5, catalog.go, manifests.go; "
        "releases/v3.1.1.toml, v3.1.2.toml",
        options=_NEW,
        manners=(refuses_numbers_above("catalog", 2), gives_tags_at_most(3), knows_no_schema1, *_DISTRIBUTION),
    ),
    "distribution 3.1.0, deletion off": Personality(
        stands_for="distribution 3.0.0 to 3.1.0 with `delete: {enabled: false}`",
        source="distribution/distribution releases/v3.1.1.toml, 8baf3e08",
        options={**_NEW, "deletion": False},
        manners=(untags_although_off, knows_no_schema1, *_DISTRIBUTION),
    ),
    "strict": Personality(
        stands_for="a registry that does what the specification demands, and nothing beside it",
        source=_SPEC,
        manners=(refuses_what_it_does_not_know, refuses_numbers_above("tags", 100), *_DISTRIBUTION),
        options={"page": 3},
    ),
    "eventual": Personality(
        stands_for="a registry whose copies agree after a while",
        source="no vendor's; the specification says 202 Accepted, which promises no more",
        manners=(deletes_later,),
    ),
    "deletion off": Personality(
        stands_for="docker-registry 2.8.2 as it is delivered",
        source="the program itself (test_real_audit.py)",
        options={**_OLD, "deletion": False},
    ),
    "liar": Personality(
        stands_for="a registry whose storage lost the right to delete, or a proxy that answers for it",
        source="no vendor's",
        manners=(deletes_never,),
    ),
    "zot": Personality(
        stands_for="zot 2",
        source="project-zot/zot pkg/api/routes.go DeleteManifest, pkg/storage/imagestore deleteImageManifest, pkg/storage/common "
        "UpdateIndexWithPrunedImageManifests",
        manners=(zot,),
    ),
    "Harbor": Personality(
        stands_for="Harbor 2",
        source="goharbor/harbor src/server/registry/manifest.go deleteManifest, src/controller/artifact/controller.go deleteDeeply, "
        "src/lib/http/error.go",
        options={"tag_deletion": False},
        manners=(harbor, *_DISTRIBUTION),
    ),
    "Artifact Registry": Personality(
        stands_for="Google's Artifact Registry and the registry before it",
        source="GoogleCloudPlatform/gcr-cleaner#118, genuinetools/reg#136, enix/kube-image-keeper#636",
        manners=(artifact_registry,),
    ),
    "Azure": Personality(
        stands_for="Azure Container Registry with a locked image",
        source="Azure/acr-cli#70",
        manners=(azure,),
    ),
    "Docker Hub": Personality(
        stands_for="Docker Hub through the distribution interface",
        source="docker/docs, Registry API, DeleteImageManifest; the words of its 403 are those of distribution",
        manners=(docker_hub,),
    ),
    "Basic": Personality(
        stands_for="docker-registry 2.8.2 with htpasswd",
        source="the program itself (test_real_login.py)",
        options={**_OLD, "users": {USER: PASSWORD}, "auth": "basic"},
    ),
    "Bearer": Personality(
        stands_for="a registry with a token server that reads GET alone",
        source="distribution's specification of token authentication",
        options={"users": {USER: PASSWORD}, "auth": Login(oauth2=False)},
    ),
    "identity token": Personality(
        stands_for="a registry whose token server takes what `docker login` keeps as identitytoken",
        source="distribution's specification of OAuth2 token authentication",
        options={"users": {USER: PASSWORD}, "auth": Login(identity_tokens={USER: IDENTITY_TOKEN})},
    ),
}
