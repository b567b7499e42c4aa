"""Plan: what would be deleted, what goes along, what is refused and why. Pure: no network, no deletion.

The unit of deletion is a digest with all its tags, because that is what a registry deletes. A plan is
a file with a hash over the registry, the state read, and every row; what was approved is that hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from regaudit.cleaner.decide import Decided, Selection, decide
from regaudit.cleaner.plan_difference import PlanDifference, compared
from regaudit.cleaner.rows import (
    ACTIONS,
    BOUNDS,
    DELETE_MANIFEST,
    DELETE_TAG,
    PUT_INDEX,
    Candidate,
    PlanOptions,
    PlanRow,
    no_collector,
    parse_candidates,
    plain,
    read_back,
)
from regaudit.errors import BadManifest, PlanError, UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.spreadsheet import write_csv
from regaudit.manifest import load_json
from regaudit.reference import Digest
from regaudit.text import (
    atomic_write,
    clean,
    count_of,
    displayed,
    escape,
    html_table,
    human_bytes,
    isoformat,
    parse_duration,
    parse_time,
)

T = TypeVar("T")
FORMAT = "regaudit-plan/2"
_SHOWN = 20
# What stands for less that comes back than is said.
_LESS = frozenset({"unread", "unlisted"})


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved which plan, when and why.

    Attributes
    ----------
    policy_hash : str
        Of an approval in advance: the hash of the policy that carries it. Empty where somebody approved this very plan.
    """

    by: str
    at: str
    reason: str
    plan_hash: str
    policy_hash: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the approval as plain values."""
        return plain(self)

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return clean(f"approved by {self.by} at {self.at}, plan {self.plan_hash[:12]}{reason}", 300)


@dataclass(frozen=True)
class Plan:
    """What would be deleted from one registry, in order, and what is refused.

    Attributes
    ----------
    registry : str
        Normalised ``host[:port]``.
    taken_at : str
        When the snapshot behind the plan was taken.
    rows, refused : tuple of PlanRow
        What goes, in the order of execution; which candidates stay, and why.
    state : mapping
        For each repository that the plan touches, every tag with its digest, as read.
    reclaimable_bytes : int
        What comes back after garbage collection: manifests, configs and layers that nothing else
        in the registry as read holds.
    bounds : tuple of str
        Why it may be more or less, as keys of `BOUNDS`: ``unsized``, ``unread``, ``unlisted``.
    approval : Approval or None
        Without one, nothing executes the plan.
    """

    registry: str
    taken_at: str
    rows: tuple[PlanRow, ...]
    refused: tuple[PlanRow, ...]
    state: Mapping[str, Mapping[str, str | None]]
    candidates: tuple[Candidate, ...]
    options: PlanOptions = field(default_factory=PlanOptions)
    reclaimable_bytes: int = 0
    bounds: tuple[str, ...] = ()
    approval: Approval | None = None
    snapshot: Snapshot | None = field(default=None, repr=False, compare=False)

    @cached_property
    def hash(self) -> str:
        """The sha256 of everything in the plan but the approval, in canonical JSON."""
        return _hash(_texts(self._content()))

    @property
    def chosen(self) -> int:
        """How many digests go, or lose a tag, by themselves and not along with others: what limits count."""
        return len({(row.repository, row.digest) for row in self.rows if row.role == "candidate"})

    @property
    def digests(self) -> int:
        """How many digests go."""
        return sum(row.action == DELETE_MANIFEST for row in self.rows)

    @property
    def tags(self) -> int:
        """How many tags go."""
        return sum(len(row.tags) for row in self.rows if row.action != PUT_INDEX)

    @property
    def lower_bound(self) -> bool:
        """Whether more may come back, because a size is not known."""
        return "unsized" in self.bounds

    @property
    def upper_bound(self) -> bool:
        """Whether less may come back: not all was read, or there may be what a registry does not list."""
        return not _LESS.isdisjoint(self.bounds)

    def row(self, key: str) -> PlanRow:
        """Return the row of a key; raises `UsageError` where the plan has none."""
        for row in self.rows:
            if row.key == key:
                return row
        raise UsageError(f"the plan has no row {clean(key, 200)!r}: use a key of plan.frame()")

    def select(self, keys: Iterable[str]) -> Plan:
        """Return the plan of some of the candidates, with everything decided anew.

        Parameters
        ----------
        keys : iterable of str
            Keys of rows whose role is ``candidate``.

        Raises
        ------
        UsageError
            A key that is not such a row's.
        PlanError
            The plan was loaded without its snapshot.
        """
        chosen = set(keys)
        selectable = {row.key for row in self.rows if row.role == "candidate"}
        if odd := sorted(chosen - selectable):
            raise UsageError(f"{clean(odd[0], 200)!r} is not a row that can be selected: use keys of candidate rows")
        kept = tuple(candidate for candidate in self.candidates if candidate.keys & chosen)
        with no_collector():
            return _made(self._snapshot(), kept, self.options)

    def selection(self) -> Selection:
        """Return an empty `Selection` that follows a person's clicks."""
        decided = Decided(self.rows, self.refused, self.state, self.reclaimable_bytes, self.bounds)
        with no_collector():
            return Selection(self._snapshot(), decided, self.candidates, self.options)

    def approve(self, by: str, reason: str = "", at: datetime | None = None, *, policy_hash: str = "") -> Plan:
        """Return the plan with an approval: who, when, why, and the hash of what was approved.

        `policy_hash` is that of a policy which carries the approval, given in advance; see `regaudit.unattended.standing`.
        """
        if not by.strip():
            raise UsageError("an approval names who approves: give by='your name'")
        moment = isoformat(at or datetime.now(UTC))
        return replace(self, approval=Approval(clean(by, 200), moment, clean(reason, 2000), self.hash, policy_hash))

    def check(self, *, max_age: str | timedelta | None = None) -> None:
        """Raise `PlanError` unless the plan is approved exactly as it stands, and what it was made of is not too old.

        Parameters
        ----------
        max_age : str or timedelta, optional
            The most time since the registry was read, as in ``"12h"``; any unless given.
        """
        if self.approval is None:
            raise PlanError("the plan is not approved: `regaudit approve PLAN --by NAME`, or plan.approve(by=NAME)")
        # Hashed anew: the plan's mappings could have been changed since `hash` was first asked for.
        if self.approval.plan_hash != _hash(_texts(self._content())):
            raise PlanError("the approval is for another plan: approve this one after reading it")
        if max_age is not None and datetime.now(UTC) - datetime.fromisoformat(self.taken_at) > parse_duration(max_age):
            raise PlanError(
                f"the registry was read for this plan at {self.taken_at}, more than {clean(max_age, 40)} ago: "
                "audit it again, and make the plan anew"
            )

    def frame(self) -> pd.DataFrame:
        """Return all rows, refused ones last.

        Returns
        -------
        pandas.DataFrame
            key, repository, tags (joined by a space), digest, action, role, kind, created,
            content_bytes, freed_bytes, reason, because, refusal, detail. The last two are missing where nothing was refused.
        """
        names = ["repository", "digest", "action", "role", "kind", "created", "content_bytes", "freed_bytes"]
        names += ["reason", "because", "refusal", "detail"]
        records = [
            {"key": row.key, "tags": " ".join(row.tags)} | {name: getattr(row, name) for name in names}
            for row in (*self.rows, *self.refused)
        ]
        frame = pd.DataFrame(records, columns=["key", "repository", "tags", *names[1:]])
        frame["created"] = pd.to_datetime(frame["created"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
        texts = {name: "string" for name in frame.columns if name not in ("created", "content_bytes", "freed_bytes")}
        frame = frame.astype(texts | {"content_bytes": "Int64", "freed_bytes": "Int64"})
        for name in ("reason", "refusal", "detail"):
            frame[name] = frame[name].mask(frame[name] == "")
        return frame

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `frame` as CSV that is safe in a spreadsheet."""
        return write_csv(self.frame(), Path(path))

    # -- on disk ------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan, its hash and its approval as JSON and return the path."""
        texts = _texts(self._content())
        # what `hash` would say, of texts that are at hand
        said = vars(self).setdefault("hash", _hash(texts))
        texts |= _texts({"hash": said, "approval": None if self.approval is None else self.approval.to_dict()})
        texts |= _texts({"seal": _hash(texts)})
        with atomic_write(Path(path)) as file:
            file.writelines(_in_lines(texts))
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], snapshot: Snapshot | None = None) -> Plan:
        """Return the plan in a file.

        Parameters
        ----------
        snapshot : Snapshot, optional
            The snapshot that the plan was made of; `select` needs it.

        Raises
        ------
        PlanError
            The file is no plan, is of another format, or was edited.
        """
        document = _read(Path(path))
        try:
            # Over the whole file, so that not even the name in the approval can be edited.
            seal = document.pop("seal")
            loaded = cls(
                registry=_of(str, document["registry"]),
                taken_at=_time(document["taken_at"]),
                rows=tuple(map(_row, document["rows"])),
                refused=tuple(map(_row, document["refused"])),
                state=_state(document["state"]),
                candidates=tuple(read_back(Candidate, fields) for fields in document["candidates"]),
                options=read_back(PlanOptions, document["options"]),
                reclaimable_bytes=_of(int, document["reclaimable_bytes"]),
                bounds=_bounds(document["bounds"]),
                approval=read_back(Approval, document["approval"]) if document["approval"] else None,
                snapshot=snapshot,
            )
            same = loaded.hash == document["hash"] and _hash(_texts(document)) == seal
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"{clean(path)} is damaged ({clean(error, 80)}): make the plan again") from None
        if not same:
            raise PlanError(
                f"{clean(path)} was changed after it was made: make the plan again; rows are chosen with select"
            )
        if snapshot is not None:
            loaded._snapshot()  # says at once where they do not belong together
        return loaded

    def _content(self) -> dict[str, Any]:
        """Return everything but the approval as plain values, the rows as they are asked for: there may be many."""
        return {
            "format": FORMAT,
            "registry": self.registry,
            "taken_at": self.taken_at,
            "options": {name: list(v) if isinstance(v, tuple) else v for name, v in plain(self.options).items()},
            "state": {name: dict(tags) for name, tags in self.state.items()},
            "candidates": map(plain, self.candidates),
            "rows": map(PlanRow.to_dict, self.rows),
            "refused": map(PlanRow.to_dict, self.refused),
            "reclaimable_bytes": self.reclaimable_bytes,
            "bounds": list(self.bounds),
        }

    def check_snapshot(self) -> None:
        """Raise `PlanError` unless the plan has the snapshot that it was made of, which choosing among its rows needs."""
        self._snapshot()

    def _snapshot(self) -> Snapshot:
        if self.snapshot is None:
            raise PlanError("the plan's snapshot is needed for this: Plan.load(path, snapshot=Snapshot.load(folder))")
        if self.snapshot.registry != self.registry or self.snapshot.taken_at.isoformat() != self.taken_at:
            raise PlanError("the plan was made of another snapshot: load the one that it was made of")
        return self.snapshot

    def diff(self, other: Plan) -> PlanDifference:
        """Return what another plan, as a rule a later one of the same registry, does that this one does not, and the other way.

        Raises
        ------
        UsageError
            The other plan is of another registry.
        """
        return compared(self, other)

    # -- for people ---------------------------------------------------------------------------

    def headline(self) -> str:
        """Return the consequences in one sentence."""
        along = sum(row.role not in {"candidate", "list"} for row in self.rows)
        return (
            f"{count_of(self.digests, 'digest')} with {count_of(self.tags, 'tag')} would go "
            f"({along:,} of the digests along with others); "
            f"{self.bytes_text(self.reclaimable_bytes)} come back after garbage collection; "
            f"{count_of(len(self.refused), 'candidate is', 'candidates are')} refused"
        )

    def bytes_text(self, count: int) -> str:
        """Return a number of bytes that come back as people read it, saying where it is a bound."""
        less = self.upper_bound and count > 0  # less than nothing cannot come back
        bounds = {(False, False): "", (True, False): "at least ", (False, True): "at most ", (True, True): "about "}
        return bounds[self.lower_bound, less] + human_bytes(count)

    def bounds_text(self) -> str:
        """Return in a sentence why other bytes may come back than are said; an empty text where they are exact."""
        if not self.bounds:
            return ""
        word = self.bytes_text(self.reclaimable_bytes).removesuffix(human_bytes(self.reclaimable_bytes)).strip()
        return f"{word}: {'; '.join(BOUNDS[name] for name in self.bounds)}"

    def _notes(self) -> list[str]:
        """Return what a person should know beside the headline: why the bytes are a bound, and who approved it."""
        found = [self.bounds_text()] if self.bounds else []
        return [*found, str(self.approval)] if self.approval is not None else found

    def __str__(self) -> str:
        kinds = Counter(row.refusal for row in self.refused)
        along = Counter(row.because for row in self.rows)
        chosen = [row for row in self.rows if row.role == "candidate"]
        lines = [self.headline(), *(f"  {note}" for note in self._notes())]
        lines += [f"  refused, {kind}: {count}" for kind, count in kinds.most_common()]
        for row in chosen[:_SHOWN]:
            more = f"  (+{along[row.key]} along)" if along[row.key] else ""
            alone = " (the tag alone)" if row.action == DELETE_TAG else ""
            lines.append(f"  {row.repository} {_tag_text(row)}{alone}  {row.reason}{more}")
        lines += [f"  and {len(chosen) - _SHOWN:,} more"] if len(chosen) > _SHOWN else []
        return "\n".join(clean(line, 300) for line in lines)

    def _repr_html_(self) -> str:
        headings = ["repository", "tags", "digest", "role", "goes along", "bytes back", "reason"]
        along = Counter(row.because for row in self.rows)
        shown = [*self.rows[:50], *self.refused[:50]]
        rows: list[list[object]] = [
            [
                row.repository,
                " ".join(row.tags[:8]),
                Digest(row.digest).short if row.digest else "",
                _role_text(row),
                along[row.key] or "",
                "" if row.refusal else human_bytes(row.freed_bytes),
                row.detail or row.reason,
            ]
            for row in shown
        ]
        more = len(self.rows) + len(self.refused) - len(shown)
        note = f"<p>and {more} more in <code>plan.frame()</code></p>" if more else ""
        above = "".join(f"<p>{escape(text)}</p>" for text in (self.headline(), *self._notes()))
        return displayed(f"{above}{html_table(headings, rows)}{note}")


def plan(
    snapshot: Snapshot,
    candidates: pd.DataFrame | Iterable[str],
    *,
    protect: Iterable[str] = (),
    include: Iterable[str] = (),
    allow_empty: bool = False,
    untag: bool = False,
) -> Plan:
    """Return what deleting some candidates means, without deleting anything.

    Parameters
    ----------
    snapshot : Snapshot
        What is known of the registry.
    candidates : pandas.DataFrame or iterable of str
        Rows with ``repository`` and ``tag`` (a row without a tag names a ``digest``), and
        optionally ``digest`` and ``reason``, as `stale_tags` returns them; or texts ``repository:tag``.
    protect : iterable of str
        Shell-style patterns of tag names that never go.
    include : iterable of str
        Digests that may go although tags that are no candidates point to them.
    allow_empty : bool
        Whether a repository may be left without tags.
    untag : bool
        Where a digest must stay for other tags' sake, let the candidate tag go alone. Registries
        that follow the distribution specification 1.1 offer this; docker-registry 2.8 does not.

    Returns
    -------
    Plan
        With every candidate either in ``rows`` or in ``refused``.

    Raises
    ------
    UsageError
        Candidates of another registry, or without the columns that name a tag.
    """
    for pattern in (protect, include):
        if isinstance(pattern, str):
            raise UsageError(
                f"{clean(pattern, 80)!r} is one text where several are expected: write [{clean(pattern, 80)!r}]"
            )
    options = PlanOptions(tuple(protect), tuple(include), allow_empty, untag)
    with no_collector():
        return _made(snapshot, parse_candidates(snapshot, candidates), options)


def _made(snapshot: Snapshot, candidates: tuple[Candidate, ...], options: PlanOptions) -> Plan:
    decided = decide(snapshot, candidates, options)
    return Plan(
        registry=snapshot.registry,
        taken_at=snapshot.taken_at.isoformat(),
        rows=decided.rows,
        refused=decided.refused,
        state=decided.state,
        candidates=candidates,
        options=options,
        reclaimable_bytes=decided.reclaimable_bytes,
        bounds=decided.bounds,
        snapshot=snapshot,
    )


def _role_text(row: PlanRow) -> str:
    if row.refusal:
        return "refused"
    return "the tag alone" if row.action == DELETE_TAG else row.role


def _tag_text(row: PlanRow) -> str:
    shown = " ".join(row.tags[:4]) or (Digest(row.digest).short if row.digest else "")
    return f"{shown} and {len(row.tags) - 4} more" if len(row.tags) > 4 else shown


def _read(path: Path) -> dict[str, Any]:
    try:
        document = load_json(path.read_bytes())  # a key that stands twice would show one plan and mean another
    except (OSError, BadManifest):
        raise PlanError(
            f"{clean(path)} is not a plan: name the file that `regaudit plan SNAPSHOT … --out FILE` wrote"
        ) from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise PlanError(
            f"{clean(path)} is of the format {clean(found, 60)!r}, and this regaudit reads {FORMAT!r}: make it again"
        )
    return dict(document)


def _texts(document: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Return the canonical JSON of each field, of a list that of each item: what is hashed, and what is written."""
    encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
    return {
        name: [encode(item) for item in value] if isinstance(value, list | Iterator) else encode(value)
        for name, value in document.items()
    }


def _in_lines(texts: Mapping[str, str | list[str]]) -> Iterator[str]:
    """Yield JSON with a line for each field and for each row: quick to write, and a diff shows what changed."""
    yield from _joined(texts, ("{\n", ",\n", "\n}\n"), ("[\n", ",\n", "\n]"), ": ")


def _hash(texts: Mapping[str, str | list[str]]) -> str:
    digest = hashlib.sha256()
    for text in _joined(texts, ("{", ",", "}"), ("[", ",", "]"), ":"):
        digest.update(text.encode("ascii"))
    return digest.hexdigest()


_Brackets = tuple[str, str, str]


def _joined(texts: Mapping[str, str | list[str]], fields: _Brackets, items: _Brackets, colon: str) -> Iterator[str]:
    """Yield the pieces of a JSON object, its fields sorted."""
    for place, name in enumerate(sorted(texts)):
        yield f"{fields[1] if place else fields[0]}{json.dumps(name)}{colon}"
        text = texts[name]
        if isinstance(text, str):
            yield text
        else:
            yield items[0] + items[1].join(text) + items[2] if text else "[]"
    yield fields[2]


def _of(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"{clean(value, 40)!r} is no {kind.__name__}")
    return value


def _time(text: str) -> str:
    moment = parse_time(text)
    if (
        moment is None or moment.isoformat() != text
    ):  # as it was written: other spellings are read by some, and not by all
        raise ValueError(f"{clean(text, 40)!r} is no time")
    return text


def _state(repositories: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, str | None]]:
    if not all(digest is None or type(digest) is str for tags in repositories.values() for digest in tags.values()):
        raise TypeError("the state has a digest that is none")
    return repositories


def _bounds(names: list[str]) -> tuple[str, ...]:
    if odd := [name for name in names if name not in BOUNDS]:
        raise ValueError(f"{clean(odd[0], 40)!r} is no bound")
    return tuple(names)


def _row(fields: Mapping[str, Any]) -> PlanRow:
    row = read_back(PlanRow, fields)
    if row.action not in ACTIONS:
        raise ValueError(f"{clean(row.action, 40)!r} is no action")
    if row.digest is not None:
        Digest(row.digest)
    if row.created is not None:
        _time(row.created)
    return row


__all__ = ["Approval", "Plan", "plan"]
