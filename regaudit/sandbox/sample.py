"""A sample of images: the registry of an imaginary company, small in bytes and rich in cases.

What is in it, by repository:

``platform/base/python``, ``platform/base/node``
    Base images, rebuilt every few months; their layers are the first layers of the others. An OCI
    index and a Docker manifest list.
``shop/checkout/api``
    Releases with aliases (``latest``, ``stable``, ``1``, ``1.4``, ``1.4.2`` are one digest), branches,
    commits and pull requests; attestation children as BuildKit adds them; the newest release has a
    cosign signature by tag and an SBOM by ``subject``, an older one an SBOM alone.
``shop/checkout/worker``
    The same in Docker's media types; a release with a signature.
``web/frontend``
    One architecture; dated tags, previews of pull requests, reproducible builds of 1970-01-01.
``data/etl/nightly``
    A tag for every night; one config under two manifests (an annotation differs).
``legacy/billing``
    Three years old; builds of 0001-01-01 and 1980-01-01, one without a date, and a broken tag.
``tools/ci/builder``
    An index within an index; the same layers under two configs.
``charts/checkout``
    Helm charts.
``archive/prototype``
    Emptied: in the catalog, without a tag.

Nothing in it is garbage: every blob is held by a manifest, and every manifest is reached from a tag
or a subject.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from regaudit.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
)
from regaudit.reference import Digest, attached_tag
from regaudit.text import isoformat

Json = dict[str, Any]

_SPDX = "application/spdx+json"
_IN_TOTO = "application/vnd.in-toto+json"
_COSIGN_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
_HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_HELM_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

# What build tools write where they write no date: Go's zero time, the Unix epoch (ko, Bazel), and the
# first date that a zip archive can hold (buildpacks).
_YEAR_ONE = "0001-01-01T00:00:00Z"
_EPOCH = "1970-01-01T00:00:00Z"
_FIRST_ZIP_DATE = "1980-01-01T00:00:01Z"

_AMD64: Json = {"architecture": "amd64", "os": "linux"}
_ARM64: Json = {"architecture": "arm64", "os": "linux", "variant": "v8"}
_BOTH = (_AMD64, _ARM64)


@dataclass(frozen=True, slots=True)
class SampleManifest:
    """A manifest to push: its digest, media type and bytes."""

    digest: str
    media_type: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SampleRepository:
    """A repository of the sample, in the order in which a client can push it.

    Attributes
    ----------
    name : str
        The repository.
    blobs : dict
        The bytes of each blob, by digest: push these first.
    manifests : tuple of SampleManifest
        Children before their index, subjects before their referrers.
    tags : dict
        The digest of each tag; each is one of `manifests`.
    broken : dict
        Tags whose manifest does not exist. Only `Store.load` can make them; a client cannot.
    """

    name: str
    blobs: dict[str, bytes] = field(repr=False)
    manifests: tuple[SampleManifest, ...] = field(repr=False)
    tags: dict[str, str] = field(repr=False)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def emptied(self) -> bool:
        """Whether there is nothing to push: the repository is in the catalog and that is all."""
        return not self.manifests


@dataclass(frozen=True, slots=True)
class Sample:
    """All repositories of the sample, and the time that their ages count from."""

    now: datetime
    repositories: tuple[SampleRepository, ...]

    def repository(self, name: str) -> SampleRepository:
        """Return the repository of that name; raises KeyError if the sample has none."""
        for repository in self.repositories:
            if repository.name == name:
                return repository
        raise KeyError(name)


def sample_images(now: datetime, *, fallback_tags: bool = False) -> Sample:
    """Return the sample as it stands at a time: the newest image is from the day before.

    The same time gives the same bytes, as long as the interpreter's zlib is the same.

    Parameters
    ----------
    now : datetime
        With a time zone.
    fallback_tags : bool
        List the referrers of each subject under its fallback tag too (``sha256-…``), as a client does
        on a registry without the referrers interface.

    Returns
    -------
    Sample
        About 180 tags in ten repositories, some 16 MB.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> sample = sample_images(datetime(2026, 1, 31, tzinfo=UTC))
    >>> tags = sample.repository("shop/checkout/api").tags
    >>> tags["latest"] == tags["1.4"] == tags["1.4.2"]
    True
    """
    layers = _Layers()
    shelves = (
        _base_python(now, layers),
        _base_node(now, layers),
        _checkout_api(now, layers),
        _checkout_worker(now, layers),
        _web_frontend(now, layers),
        _etl_nightly(now, layers),
        _legacy_billing(now, layers),
        _ci_builder(now, layers),
        _charts(now),
        _Shelf("archive/prototype", now),
    )
    return Sample(now, tuple(shelf.finish(fallback_tags=fallback_tags) for shelf in shelves))


# Layers


@dataclass(frozen=True, slots=True)
class _Layer:
    blob: bytes
    diff_id: str
    command: str


class _Layers:
    """Makes layers, each once: what has one name is one blob, in every repository."""

    def __init__(self) -> None:
        self._made: dict[str, _Layer] = {}

    def make(self, name: str, kibibytes: int, command: str) -> _Layer:
        layer = self._made.get(name)
        if layer is None:
            archive = _tar({f"{name}/content.bin": _noise(name, kibibytes * 1024), f"{name}/BUILD": command.encode()})
            layer = self._made[name] = _Layer(_gzip(archive), Digest.of(archive), command)
        return layer

    def base(self, runtime: str, version: str, build: int, platform: Json) -> tuple[_Layer, ...]:
        """Return the layers of a base image: an operating system, and a runtime on it."""
        machine = platform["architecture"]
        # One system serves several builds and both runtimes, as a distribution's releases do.
        system = "system-12" if build > 500 else "system-13"
        return (
            self.make(f"{system}-{machine}", 300, f"ADD {system}-rootfs.tar.gz / # buildkit"),
            self.make(f"{system}-certificates", 12, "RUN install-certificates # buildkit"),
            self.make(f"{runtime}-{version}-{build}-{machine}", 170, f"RUN install-{runtime} {version} # buildkit"),
        )


def _noise(seed: str, size: int) -> bytes:
    # Compression must not shrink the layers to nothing: what is compressed is already as good as random.
    return hashlib.shake_256(seed.encode()).digest(size)


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1, mtime=0)


def _dump(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _pretty(document: Json) -> bytes:
    # Docker indents what it writes, with three spaces; a digest is over the bytes as they are.
    return json.dumps(document, indent=3).encode()


# Images


@dataclass(frozen=True, slots=True)
class _Family:
    """The media types that go together, and how their tools write JSON."""

    manifest: str
    index: str
    config: str
    layer: str


_OCI = _Family(OCI_MANIFEST, OCI_INDEX, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip")
_DOCKER = _Family(DOCKER_MANIFEST, DOCKER_LIST, DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip")


@dataclass(frozen=True, slots=True)
class _Build:
    """What one run of a build tool is given beside the layers."""

    version: str
    created: str | None
    platforms: tuple[Json, ...] = (_AMD64,)
    family: _Family = _OCI
    attested: bool = False
    environment: tuple[str, ...] = ()
    annotations: Json = field(default_factory=dict)


class _Shelf:
    """A repository that is being filled."""

    def __init__(self, name: str, now: datetime) -> None:
        self.name = name
        self.now = now
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[str, SampleManifest] = {}
        self._tags: dict[str, str] = {}
        self._broken: dict[str, str] = {}
        self._referrers: dict[str, list[Json]] = {}

    def ago(self, days: float) -> str:
        """Return the time of a build so many days before today, at some minute of the working day."""
        today = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        return isoformat(today - timedelta(days=days) + timedelta(hours=8, minutes=int(days * 137) % 600))

    def tag(self, descriptor: Json, *names: str) -> None:
        """Point tags at a manifest, away from what they pointed at."""
        for name in names:
            self._tags[name] = descriptor["digest"]

    def break_tag(self, name: str) -> None:
        """Add a tag whose manifest is gone."""
        self._broken[name] = Digest.of(f"{self.name}:{name}".encode())

    def blob(self, data: bytes, media_type: str) -> Json:
        """Add a blob and return its descriptor."""
        digest = Digest.of(data)
        self._blobs[digest] = data
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    def document(self, fields: Json, media_type: str) -> Json:
        """Add a manifest and return its descriptor."""
        document = {"schemaVersion": 2, "mediaType": media_type, **fields}
        raw = _pretty(document) if media_type in {DOCKER_MANIFEST, DOCKER_LIST} else _dump(document)
        digest = str(Digest.of(raw))
        self._manifests.setdefault(digest, SampleManifest(digest, media_type, raw))
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    def image(self, build: _Build, layers: Sequence[_Layer], platform: Json = _AMD64) -> Json:
        """Add the image of one platform and return its descriptor, with the platform."""
        config = _dump(_image_config(self.name, build, layers, platform))
        fields: Json = {
            "config": self.blob(config, build.family.config),
            "layers": [self.blob(layer.blob, build.family.layer) for layer in layers],
        }
        if build.annotations:
            fields["annotations"] = build.annotations
        return {**self.document(fields, build.family.manifest), "platform": platform}

    def index(self, children: Iterable[Json], family: _Family, annotations: Json | None = None) -> Json:
        """Add an index and return its descriptor."""
        fields: Json = {"manifests": list(children)}
        return self.document({**fields, "annotations": annotations} if annotations else fields, family.index)

    def release(self, build: _Build, stack: Iterable[Sequence[_Layer]]) -> Json:
        """Add a build for all its platforms (one stack of layers for each), as an index where there are several."""
        images = [self.image(build, layers, p) for p, layers in zip(build.platforms, stack, strict=True)]
        if len(images) == 1 and not build.attested:
            return images[0]
        attestations = [self.attestation(image, build) for image in images] if build.attested else []
        return self.index([*images, *attestations], build.family)

    def attestation(self, image: Json, build: _Build) -> Json:
        """Add the provenance of an image, as BuildKit stores it beside the image in the index."""
        subject = [{"name": f"pkg:docker/{self.name}@{build.version}", "digest": {"sha256": image["digest"][7:]}}]
        kind = "https://slsa.dev/provenance/v0.2"
        statement = {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": kind,
            "subject": subject,
            "predicate": {
                "builder": {"id": "https://ci.example.com/runner"},
                "metadata": {"buildStartedOn": build.created},
            },
        }
        layer = self.blob(_dump(statement), _IN_TOTO)
        config = {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        fields = {
            "config": self.blob(_dump(config), OCI_CONFIG),
            "layers": [{**layer, "annotations": {"in-toto.io/predicate-type": kind}}],
        }
        marks = {"vnd.docker.reference.digest": image["digest"], "vnd.docker.reference.type": "attestation-manifest"}
        unknown = {"architecture": "unknown", "os": "unknown"}
        return {**self.document(fields, OCI_MANIFEST), "annotations": marks, "platform": unknown}

    def sign(self, target: Json) -> None:
        """Add a signature under the tag that cosign gives it. It is noise: nothing here could verify it."""
        digest = target["digest"]
        payload = {
            "critical": {
                "identity": {"docker-reference": f"registry.example.com/{self.name}"},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
        layer = self.blob(_dump(payload), _COSIGN_LAYER)
        signature = base64.b64encode(_noise(digest, 71)).decode()
        config = {
            "architecture": "",
            "created": _YEAR_ONE,
            "history": [{"created": _YEAR_ONE}],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "config": {},
        }
        fields = {
            "config": self.blob(_dump(config), OCI_CONFIG),
            "layers": [{**layer, "annotations": {"dev.cosignproject.cosign/signature": signature}}],
        }
        self.tag(self.document(fields, OCI_MANIFEST), f"{attached_tag(Digest(digest))}.sig")

    def describe(self, target: Json, version: str, created: str) -> None:
        """Add an SBOM that names the image as its subject."""
        packages = [
            {
                "name": f"library-{number}",
                "versionInfo": f"{number % 5}.{number % 7}.0",
                "downloadLocation": "NOASSERTION",
            }
            for number in range(40)
        ]
        sbom = {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "name": f"{self.name}:{version}",
            "creationInfo": {"created": created, "creators": ["Tool: sample"]},
            "packages": packages,
        }
        annotations = {"org.opencontainers.image.created": created, "org.opencontainers.image.title": "sbom.spdx.json"}
        subject = {key: target[key] for key in ("mediaType", "digest", "size")}
        fields = {
            "artifactType": _SPDX,
            "config": self.blob(b"{}", OCI_EMPTY),
            "layers": [self.blob(_dump(sbom), _SPDX)],
            "subject": subject,
            "annotations": annotations,
        }
        referrer = {**self.document(fields, OCI_MANIFEST), "artifactType": _SPDX, "annotations": annotations}
        self._referrers.setdefault(target["digest"], []).append(referrer)

    def finish(self, *, fallback_tags: bool) -> SampleRepository:
        """Return the repository as plain data."""
        if fallback_tags:
            for subject, referrers in self._referrers.items():
                self.tag(self.index(referrers, _OCI), attached_tag(Digest(subject)))
        return SampleRepository(self.name, self._blobs, tuple(self._manifests.values()), self._tags, self._broken)


def _image_config(name: str, build: _Build, layers: Sequence[_Layer], platform: Json) -> Json:
    moment = {} if build.created is None else {"created": build.created}
    history = [{**moment, "created_by": layer.command, "comment": "buildkit.dockerfile.v0"} for layer in layers]
    last = {**moment, "created_by": 'CMD ["serve"]', "comment": "buildkit.dockerfile.v0", "empty_layer": True}
    container = {
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", *build.environment],
        "Cmd": ["serve"],
        "WorkingDir": "/srv",
        "Labels": _labels(name, build),
    }
    return {
        **moment,
        "author": "Platform team <platform@example.com>",
        **platform,
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [*history, last],
    }


def _labels(name: str, build: _Build) -> Json:
    labels = {
        "org.opencontainers.image.title": name.rpartition("/")[2],
        "org.opencontainers.image.source": f"https://git.example.com/{name}",
        "org.opencontainers.image.revision": hashlib.shake_256(f"{name}:{build.version}".encode()).hexdigest(20),
        "org.opencontainers.image.version": build.version,
        "org.opencontainers.image.vendor": "Example Ltd",
        "org.opencontainers.image.licenses": "LicenseRef-Proprietary",
    }
    return labels if build.created is None else {**labels, "org.opencontainers.image.created": build.created}


def _commit(name: str, number: int) -> str:
    return hashlib.shake_256(f"{name}#{number}".encode()).hexdigest(4)[:7]


# Repositories

# Version and age in days of every build of a base image: services are built on the newest before them.
_PYTHON_BUILDS = (("3.10", 1090), ("3.11", 930), ("3.11", 610), ("3.12", 430), ("3.12", 210), ("3.12", 48))
_NODE_BUILDS = (("18", 900), ("20", 540), ("20", 300), ("22", 75))


def _on_base(layers: _Layers, runtime: str, age: float, platform: Json) -> tuple[_Layer, ...]:
    builds = _PYTHON_BUILDS if runtime == "python" else _NODE_BUILDS
    version, build = next((b for b in reversed(builds) if b[1] >= age), builds[0])
    return layers.base(runtime, version, build, platform)


def _date(now: datetime, days: int) -> str:
    return (now - timedelta(days=days)).strftime("%Y-%m-%d")


def _base_images(
    name: str, now: datetime, layers: _Layers, builds: Sequence[tuple[str, int]], family: _Family
) -> _Shelf:
    shelf = _Shelf(name, now)
    runtime = name.rpartition("/")[2]
    for version, age in builds:
        build = _Build(version, shelf.ago(age), _BOTH, family)
        stack = [layers.base(runtime, version, age, platform) for platform in _BOTH]
        shelf.tag(shelf.release(build, stack), version, f"{version}-{_date(now, age)}", "latest")
    return shelf


def _base_python(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _base_images("platform/base/python", now, layers, _PYTHON_BUILDS, _OCI)
    tools = layers.make("python-build-tools", 220, "RUN install-compilers # buildkit")
    for version, age in (_PYTHON_BUILDS[2], _PYTHON_BUILDS[-1]):
        build = _Build(f"{version}-dev", shelf.ago(age - 1))
        shelf.tag(shelf.image(build, (*layers.base("python", version, age, _AMD64), tools)), f"{version}-dev")
    return shelf


def _base_node(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _base_images("platform/base/node", now, layers, _NODE_BUILDS, _DOCKER)
    build = _Build("22", shelf.ago(75), _BOTH, _DOCKER)
    shelf.tag(shelf.release(build, [layers.base("node", "22", 75, platform) for platform in _BOTH]), "lts")
    return shelf


@dataclass(frozen=True, slots=True)
class _Service:
    """A service that is built again and again: how, and on what."""

    shelf: _Shelf
    layers: _Layers
    runtime: str
    platforms: tuple[Json, ...] = _BOTH
    family: _Family = _OCI
    attested: bool = False
    dependencies: int = 110
    code: int = 18

    def stack(self, version: str, line: str, age: float, platform: Json) -> tuple[_Layer, ...]:
        """Return base, dependencies (which change with the release line) and the service's own code."""
        key = f"{self.shelf.name}-{platform['architecture']}"
        # Code grows and shrinks from build to build, so that no two sizes are alike.
        code = self.code + _noise(version, 1)[0] % self.code
        return (
            *_on_base(self.layers, self.runtime, age, platform),
            self.layers.make(f"{key}-dependencies-{line}", self.dependencies, "RUN install-dependencies # buildkit"),
            self.layers.make(f"{key}-code-{version}", code, "COPY . /srv # buildkit"),
        )

    def build(self, version: str, line: str, age: float, *tags: str, created: str | None = None) -> Json:
        """Build one version, a number of days ago, and tag it; `created` overrides what the image says."""
        build = _Build(version, created or self.shelf.ago(age), self.platforms, self.family, self.attested)
        target = self.shelf.release(build, [self.stack(version, line, age, p) for p in self.platforms])
        self.shelf.tag(target, *tags)
        return target

    def releases(self, versions: Sequence[tuple[str, int]], *floating: str) -> dict[str, Json]:
        """Build releases, oldest first, each with the aliases that move along with it."""
        built = {}
        for version, age in versions:
            major, minor, _ = version.split(".")
            aliases = (version, f"{major}.{minor}", major, *floating)
            built[version] = self.build(version, f"{major}.{minor}", age, *aliases)
        return built

    def commits(self, line: str, ages: Sequence[int], branch: str = "main") -> None:
        """Build commits of a branch, oldest first; the branch's own tag follows."""
        for number, age in enumerate(ages):
            name = f"{branch}-{_commit(self.shelf.name + branch, number)}"
            self.build(name, line, age, name, branch)

    def pull_requests(self, line: str, first: int, ages: Sequence[int]) -> None:
        """Build pull requests, numbered upwards with gaps, as review goes."""
        for number, age in enumerate(ages):
            self.build(f"pr-{first + 3 * number}", line, age, f"pr-{first + 3 * number}")


def _checkout_api(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _Shelf("shop/checkout/api", now)
    service = _Service(shelf, layers, "python")
    early = (("1.0.0", 1000), ("1.0.1", 955), ("1.1.0", 820), ("1.2.0", 640), ("1.2.1", 600))
    service.releases(early, "latest", "stable")
    # Attestations came with a newer build tool.
    attested = _Service(shelf, layers, "python", attested=True)
    late = (("1.3.0", 400), ("1.3.1", 330), ("1.3.2", 250), ("1.4.0", 120), ("1.4.1", 61), ("1.4.2", 12))
    built = attested.releases(late, "latest", "stable")
    attested.commits("1.4", (95, 88, 80, 71, 59, 44, 37, 30, 22, 15, 9, 4, 2))
    attested.commits("1.4", (40, 20, 3), branch="develop")
    attested.build("feature-login", "1.4", 33, "feature-login")
    service.pull_requests("1.4", 101, (84, 70, 66, 52, 35, 19, 6))
    shelf.sign(built["1.4.2"])
    shelf.describe(built["1.4.2"], "1.4.2", shelf.ago(12))
    shelf.describe(built["1.3.2"], "1.3.2", shelf.ago(250))
    return shelf


def _checkout_worker(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _Shelf("shop/checkout/worker", now)
    service = _Service(shelf, layers, "python", family=_DOCKER, dependencies=80, code=14)
    versions = (("0.9.0", 880), ("1.0.0", 700), ("1.1.0", 480), ("1.1.1", 365), ("1.2.0", 140), ("1.2.1", 27))
    built = service.releases(versions, "latest")
    service.commits("1.2", (130, 101, 77, 50, 29, 18, 8, 5))
    service.build("feature-retries", "1.2", 57, "feature-retries")
    shelf.sign(built["1.2.1"])
    return shelf


def _web_frontend(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _Shelf("web/frontend", now)
    service = _Service(shelf, layers, "node", (_AMD64,), dependencies=190, code=26)
    for age in (365, 274, 183, 92, 31):
        service.build(_date(now, age), str(age // 200), age, _date(now, age), "latest", "production")
    service.commits("next", (62, 55, 48, 41, 34, 27, 20, 13, 7, 1))
    service.pull_requests("next", 340, (45, 38, 32, 25, 17, 11, 6, 3, 1))
    service.build("feature-dark-mode", "next", 90, "feature-dark-mode")
    for number, age in enumerate((36, 23, 10)):
        name = f"edge-{_commit('edge', number)}"
        service.build(name, "next", age, name, "edge", created=_EPOCH)
    return shelf


def _etl_nightly(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _Shelf("data/etl/nightly", now)
    service = _Service(shelf, layers, "python", (_AMD64,), dependencies=260, code=10)
    for age in range(30, 0, -1):
        service.build(_date(now, age), "jobs", age, _date(now, age), "latest")
    # The same config and layers pushed again: only an annotation of the manifest differs.
    for age in (29, 15):
        note = {"org.opencontainers.image.ref.name": f"{_date(now, age)}-rebuild"}
        build = _Build(_date(now, age), shelf.ago(age), annotations=note)
        shelf.tag(shelf.image(build, service.stack(build.version, "jobs", age, _AMD64)), f"{_date(now, age)}-rebuild")
    return shelf


def _legacy_billing(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _Shelf("legacy/billing", now)
    service = _Service(shelf, layers, "python", (_AMD64,), _DOCKER, dependencies=140, code=40)
    versions = (("0.4.0", 1095), ("0.4.1", 1080), ("0.5.0", 1050), ("0.6.0", 990), ("0.6.1", 940), ("0.7.0", 760))
    service.releases(versions, "latest")
    service.build("0.3-import", "0.3", 1095, "0.3-import", created=_YEAR_ONE)
    service.build("0.8.0-buildpack", "0.8", 700, "0.8.0-buildpack", created=_FIRST_ZIP_DATE)
    undated = _Build("0.2-import", None, family=_DOCKER)
    shelf.tag(shelf.image(undated, service.stack("0.2-import", "0.3", 1095, _AMD64)), "0.2-import")
    shelf.break_tag("0.8.0-rc1")
    return shelf


def _ci_builder(now: datetime, layers: _Layers) -> _Shelf:
    shelf = _Shelf("tools/ci/builder", now)
    service = _Service(shelf, layers, "python", dependencies=150, code=30)
    for version, age in (("2024.1", 800), ("2025.1", 420), ("2025.2", 180)):
        service.build(version, version, age, version)
    _nest(service, "2026.1", 25)
    # The same layers, once with and once without a setting in the config.
    stack = service.stack("2026.1", "2026.1", 25, _AMD64)
    for variant, setting in (("release", ()), ("debug", ("BUILDER_TRACE=1",))):
        build = _Build(f"2026.1-{variant}", shelf.ago(24), environment=setting)
        shelf.tag(shelf.image(build, stack), build.version)
    return shelf


def _nest(service: _Service, version: str, age: int) -> None:
    """Add an index of two: an index for both architectures, and an image for a third."""
    shelf = service.shelf
    inner = service.build(version, version, age)
    other = {"architecture": "riscv64", "os": "linux"}
    image = shelf.image(_Build(version, shelf.ago(age)), service.stack(version, version, age, other), other)
    notes = {"org.opencontainers.image.ref.name": version}
    shelf.tag(shelf.index([inner, image], _OCI, notes), version, "latest")


def _charts(now: datetime) -> _Shelf:
    shelf = _Shelf("charts/checkout", now)
    for version, age, service in (("0.8.0", 410, "1.3.0"), ("0.9.0", 118, "1.4.0"), ("0.9.1", 11, "1.4.2")):
        meta = {
            "apiVersion": "v2",
            "name": "checkout",
            "version": version,
            "appVersion": service,
            "type": "application",
        }
        lines = "".join(f"{key}: {value}\n" for key, value in meta.items())
        files = {"checkout/Chart.yaml": lines.encode(), "checkout/values.yaml": f"image:\n  tag: {service}\n".encode()}
        fields = {
            "config": shelf.blob(_dump(meta), _HELM_CONFIG),
            "layers": [shelf.blob(_gzip(_tar(files)), _HELM_LAYER)],
            "annotations": {
                "org.opencontainers.image.created": shelf.ago(age),
                "org.opencontainers.image.title": "checkout",
                "org.opencontainers.image.version": version,
            },
        }
        shelf.tag(shelf.document(fields, OCI_MANIFEST), version)
    return shelf
