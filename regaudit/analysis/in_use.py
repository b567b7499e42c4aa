"""What is in use: the images named by a cluster, a compose file, any YAML or JSON, or a plain list.

Whoever deletes by age wants to spare what runs. The lists come from other tools and are read in full
or not at all: a name that cannot be read is an error that says where it stands, because a name that is
passed over is an image that nobody protects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from regaudit.errors import BadManifest, InvalidReference, UsageError
from regaudit.manifest import load_json
from regaudit.reference import Digest, Reference, parse_reference
from regaudit.text import clean

# `kubectl get pods -A -o json` takes some 10 kB for a pod, so that this is a cluster of 25,000.
_LARGEST_FILE = 256 << 20
# Reading YAML takes about a hundred times as long as reading JSON.
_LARGEST_YAML = 16 << 20
# Deeper than any manifest of Kubernetes, and shallow enough for every reader.
_DEEPEST = 100
# An alias stands for what is written elsewhere in the file. Files that people write have a few of them; one
# that is all aliases is made to grow where it is read.
_MOST_ALIASES = 10_000
_BARE_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
# As container runtimes write where an image came from: docker-pullable://, containerd:// and their kin.
_RUNTIME = re.compile(r"[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class InUse:
    """An image that is in use somewhere.

    Attributes
    ----------
    text : str
        The name as it was read.
    reference : Reference or None
        What it names; a name without tag and digest means the tag ``latest``.
    digest : Digest or None
        In place of a reference: a manifest or a config of any repository, as container runtimes report
        an image that they know by nothing else.
    where : str
        The file, and the line or the path in it.

    Examples
    --------
    >>> str(InUse.parse("registry.example.com/team/app").reference)
    'registry.example.com/team/app:latest'
    """

    text: str
    reference: Reference | None = field(compare=False)
    digest: Digest | None = field(default=None, compare=False)
    where: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, where: str = "") -> Self:
        """Return what a name means; raises `InvalidReference` where it is none, saying where it stands."""
        if bare := _BARE_DIGEST.fullmatch(text.strip()):
            return cls(text, None, Digest(f"sha256:{bare[1]}"), where)
        at = f"{clean(where, 300)}: " if where else ""
        if "$" in text or "{{" in text:
            raise InvalidReference(
                f"{at}{clean(text, 160)!r} has a variable: write what it stands for "
                "(`docker compose config` and `helm template` print that)"
            )
        try:
            named = parse_reference(text)
        except InvalidReference as error:
            raise InvalidReference(f"{at}{error}") from None
        if named.tag is None and named.digest is None:
            named = Reference(named.registry, named.repository, "latest")
        return cls(text, named, None, where)


def references_in_use(*paths: str | os.PathLike[str]) -> tuple[InUse, ...]:
    """Return every image that some files name, each once.

    A file is read by what is in it. JSON (it begins with ``{`` or ``[``), such as the output of
    ``kubectl get pods -A -o json``, and YAML (its name ends in ``.yaml`` or ``.yml``), such as a compose
    file: the value of every field ``image`` and ``imageID`` at any depth, and of ``repository``,
    ``registry``, ``tag``, ``digest`` or ``reference`` in a mapping ``image``. So all kinds of containers
    count, those that run before others and those for debugging, and what the cluster reports as running
    beside what was asked for. Anything else is a plain list: a name on each line, ``#`` begins a comment.

    Parameters
    ----------
    *paths : path-like

    Returns
    -------
    tuple of InUse
        For the argument ``in_use`` of `expired_tags`.

    Raises
    ------
    UsageError
        A file that cannot be read, is too large, is nested too deeply, or names no image at all.
    InvalidReference
        A name that cannot be read; the message says in which file, and on which line or at which path.
    """
    found: dict[str, InUse] = {}
    for path in paths:
        for used in _read(Path(path)):
            found.setdefault(used.text, used)
    return tuple(found.values())


def _read(path: Path) -> list[InUse]:
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= _LARGEST_FILE else b""
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"the list of what is in use, {clean(path)}, cannot be read ({clean(error.strerror, 80)})"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{clean(path)} is not UTF-8 text: save it as that") from None
    is_yaml = path.suffix.lower() in {".yaml", ".yml"}
    if size > (_LARGEST_YAML if is_yaml else _LARGEST_FILE):
        raise UsageError(f"{clean(path)} is too large: write the names alone, one on each line")
    name = str(path)
    if is_yaml:
        found = list(_from_yaml(text, name))
    elif text.lstrip()[:1] in {"{", "["}:
        found = list(_from_json(text, name))
    else:
        found = list(_from_lines(text, name))
    if not found:
        # A cluster that was asked without the right to see its pods answers with an empty list.
        raise UsageError(f"{clean(name)} names no image, so that it would protect nothing: leave it out, or fill it")
    return found


def _from_lines(text: str, name: str) -> Iterator[InUse]:
    for number, line in enumerate(text.splitlines(), start=1):
        typed = re.sub(r"(?:^|\s)#.*", "", line).strip()
        if typed:
            yield InUse.parse(typed, f"{name}, line {number}")


# -- JSON and YAML -----------------------------------------------------------------------------

# A document is walked as (path, value), values being dicts, lists and texts, with a stack and not by recursion.


def _from_json(text: str, name: str) -> Iterator[InUse]:
    try:
        document = load_json(text.encode())
    except BadManifest as error:
        raise UsageError(f"{clean(name)}: {error}") from None
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from _named(key, inner, f"{name}, at {path}.{key}".replace("at .", "at "))
                waiting.append((f"{path}.{key}", inner))
        elif isinstance(value, list):
            waiting += [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]


def _named(key: str, value: Any, where: str) -> Iterator[InUse]:
    """Yield the image that a field of a document names, if it is a field that does."""
    if key == "imageID" and isinstance(value, str) and value:
        yield InUse.parse(_RUNTIME.sub("", value), where)
    elif key == "image" and isinstance(value, str) and value:
        yield InUse.parse(value, where)
    elif key == "image" and isinstance(value, dict):
        fields = value["<<"] | value if isinstance(value.get("<<"), dict) else value  # YAML's merge key
        if isinstance(reference := fields.get("reference"), str):  # an image as a volume of a pod
            yield InUse.parse(reference, where)
        if isinstance(repository := fields.get("repository"), str):  # as charts have it in their values
            yield InUse.parse(_joined(fields, repository), where)
        elif fields.get("tag") or fields.get("digest"):
            raise InvalidReference(f"{clean(where, 300)}: the image has no repository: write it beside the tag")


def _joined(fields: dict[str, Any], repository: str) -> str:
    registry, tag, digest = (fields.get(name) or "" for name in ("registry", "tag", "digest"))
    name = f"{registry}/{repository}" if registry else repository
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


class _Mapping:
    """A YAML mapping or sequence that is being read."""

    __slots__ = ("fields", "key", "keyed", "line")

    def __init__(self, line: int, *, keyed: bool) -> None:
        self.line = line
        self.keyed = keyed
        self.key: str | None = None
        self.fields: dict[str, Any] = {}


def _from_yaml(text: str, name: str) -> Iterator[InUse]:
    import yaml

    # The stream of events is enough, and safe: no tag makes an object of anything, nesting takes no
    # recursion, and an alias is not multiplied out.
    reader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for key, value, line in _yaml_fields(_bounded(yaml.parse(text, Loader=reader), name)):
            yield from _named(key, value, f"{name}, line {line}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(
            f"{clean(name)}{place} is not YAML ({clean(getattr(error, 'problem', None) or error, 120)})"
        ) from None


def _yaml_fields(events: Iterable[Any]) -> Iterator[tuple[str, Any, int]]:
    """Yield every field of every mapping in a stream of YAML: its key, its value (a text or a dict of texts), its line."""
    from yaml import events as kinds

    open_nodes: list[_Mapping] = []
    anchors: dict[str, Any] = {}
    for event in events:
        line = event.start_mark.line + 1
        value: Any = None
        if isinstance(event, kinds.CollectionStartEvent):
            open_nodes.append(_Mapping(line, keyed=isinstance(event, kinds.MappingStartEvent)))
            anchors[event.anchor] = open_nodes[-1].fields
        elif isinstance(event, kinds.CollectionEndEvent):
            line, value = open_nodes[-1].line, open_nodes.pop().fields
        elif isinstance(event, kinds.ScalarEvent):
            value = anchors[event.anchor] = "" if event.value == "~" and not event.style else event.value
        elif isinstance(event, kinds.AliasEvent):
            value = anchors.get(event.anchor, "")
        if open_nodes and value is not None and (key := _place(open_nodes[-1], value)) is not None:
            yield key, value, line


def _bounded(events: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield the events of a stream of YAML; raise `UsageError` where it is nested too deeply or is all aliases."""
    from yaml import events as kinds

    depth = aliases = 0
    for event in events:
        depth += isinstance(event, kinds.CollectionStartEvent) - isinstance(event, kinds.CollectionEndEvent)
        aliases += isinstance(event, kinds.AliasEvent)
        if depth > _DEEPEST or aliases > _MOST_ALIASES:
            what = (
                f"has more than {_MOST_ALIASES:,} aliases" if depth <= _DEEPEST else f"nests {_DEEPEST} levels and more"
            )
            raise UsageError(f"{clean(name)}, line {event.start_mark.line + 1}: the file {what}; list the names alone")
        yield event


def _place(node: _Mapping, value: Any) -> str | None:
    """Put a value into the mapping that it stands in, and return its key; None for keys and entries of sequences."""
    if not node.keyed:
        return None
    if node.key is None:
        node.key = value if isinstance(value, str) else ""
        return None
    key, node.key = node.key, None
    node.fields[key] = value
    return key
