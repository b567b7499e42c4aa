"""Two plans compared: what one deletes and the other does not, and which rows are judged otherwise. Pure."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from regaudit.cleaner.rows import PlanRow
from regaudit.errors import UsageError
from regaudit.inventory.spreadsheet import write_csv
from regaudit.reference import Digest
from regaudit.text import clean, displayed, html_summary, html_table, human_bytes

if TYPE_CHECKING:
    from regaudit.cleaner.plan import Plan

# Only the later plan deletes it, only the earlier one does, or both say something else of it.
CHANGES = ("goes", "stays", "changed")
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a plan says of one thing; freed bytes are left out, for they depend on what else goes."""

    action: str | None = None
    role: str | None = None
    tags: tuple[str, ...] = ()
    because: str | None = None
    along: int = 0
    refusal: str = ""

    @property
    def goes(self) -> bool:
        return self.action is not None


_COMPARED = tuple(field.name for field in fields(_Judged))


@dataclass(frozen=True, eq=False, slots=True)
class PlanDifference:
    """What changed from one plan to another of the same registry; made by `Plan.diff`.

    Attributes
    ----------
    registry : str
    before_hash, after_hash : str
        The plans that were compared; equal only where nothing differs.
    before_at, after_at : str
        When the snapshot behind each was taken.
    rows : pandas.DataFrame
        A row for each thing of which the plans do not say the same: key, repository, digest, change
        {goes, stays, changed}; and ``_before`` and ``_after`` of action, role, tags (joined by a space), because (what it
        goes along with), along (how many digests go along with it), refusal, freed_bytes. A plan that does not
        have the thing, or refuses it, has no action. Freed bytes alone, which depend on what else goes, make no row.
    digests_before, digests_after, tags_before, tags_after : int
        How many go.
    bytes_before, bytes_after : int
        What comes back after garbage collection, as each plan says it.
    """

    registry: str
    before_hash: str
    after_hash: str
    before_at: str
    after_at: str
    rows: pd.DataFrame
    digests_before: int
    digests_after: int
    tags_before: int
    tags_after: int
    bytes_before: int
    bytes_after: int

    @property
    def same(self) -> bool:
        """Whether both plans delete and refuse the same, for the same reasons."""
        return bool(self.rows.empty)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each change."""
        return {change: int((self.rows["change"] == change).sum()) for change in CHANGES}

    def frame(self) -> pd.DataFrame:
        """Return the rows as a table of one's own."""
        return self.rows.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values; the rows are in the table."""
        figures = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rows"}
        return {**figures, "same": self.same, **self.counts()}

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the rows as CSV that is safe in a spreadsheet."""
        return write_csv(self.rows, Path(path))

    # -- for people ---------------------------------------------------------------------------

    def summary(self) -> dict[str, str]:
        """Return what a person wants to know first, as texts by heading."""
        counts = self.counts()
        lines = {
            "registry": f"{self.registry}, as read at {self.before_at} and at {self.after_at}",
            "plans": f"{self.before_hash[:12]} → {self.after_hash[:12]}",
            "rows": "the same in both"
            if self.same
            else f"{counts['goes']:,} go now, {counts['stays']:,} stay now, {counts['changed']:,} changed otherwise",
            "digests": f"{self.digests_before:,} → {self.digests_after:,}",
            "tags": f"{self.tags_before:,} → {self.tags_after:,}",
            "bytes back": f"{human_bytes(self.bytes_before)} → {human_bytes(self.bytes_after)}",
        }
        return {heading: clean(text, 400) for heading, text in lines.items()}

    def __str__(self) -> str:
        lines = self.summary()
        width = max(map(len, lines))
        return "\n".join(f"{heading:<{width}}  {text}" for heading, text in lines.items())

    def __repr__(self) -> str:
        return f"<PlanDifference of {clean(self.registry, 80)}: {clean(self.summary()['rows'], 200)}>"

    def _repr_html_(self) -> str:
        if self.same:
            return displayed(html_summary(self.summary()))
        shown = [_shown(row) for row in self.rows.head(_SHOWN).to_dict("records")]
        more = len(self.rows) - len(shown)
        note = f"<p>and {more:,} more in <code>difference.rows</code></p>" if more else ""
        table = html_table(["repository", "tags", "digest", "change", "before", "after"], shown)
        return displayed(html_summary(self.summary()) + table + note)


def compared(before: Plan, after: Plan) -> PlanDifference:
    """Return what changed from one plan to another: see `Plan.diff`."""
    if before.registry != after.registry:
        raise UsageError(
            f"the plans are for {clean(before.registry, 80)} and {clean(after.registry, 80)}: compare two of one registry"
        )
    return PlanDifference(
        registry=after.registry,
        before_hash=before.hash,
        after_hash=after.hash,
        before_at=before.taken_at,
        after_at=after.taken_at,
        rows=_rows(before, after),
        digests_before=before.digests,
        digests_after=after.digests,
        tags_before=before.tags,
        tags_after=after.tags,
        bytes_before=before.reclaimable_bytes,
        bytes_after=after.reclaimable_bytes,
    )


# -- rows ------------------------------------------------------------------------------------


def _rows(before: Plan, after: Plan) -> pd.DataFrame:
    sides = (_judged(before), _judged(after))
    freed = [{row.key: row.freed_bytes for row in plan.rows} for plan in (before, after)]
    known = {row.key: row for plan in (before, after) for row in (*plan.refused, *plan.rows)}
    records = []
    for key in sorted(known):
        first, second = (side.get(key, _Judged()) for side in sides)
        if first == second:
            continue
        row = known[key]
        record: dict[str, Any] = {"key": key, "repository": row.repository, "digest": row.digest}
        record["change"] = _change(first, second)
        for name in _COMPARED:
            record |= {f"{name}_before": _cell(first, name), f"{name}_after": _cell(second, name)}
        record |= {"freed_bytes_before": freed[0].get(key), "freed_bytes_after": freed[1].get(key)}
        records.append(record)
    return _frame(records)


def _judged(plan: Plan) -> dict[str, _Judged]:
    """Return what a plan says of each thing, by the key of its row."""
    along = Counter(row.because for row in plan.rows)
    found: dict[str, _Judged] = {}
    for row in plan.refused:  # several tags of one digest, and each for a reason of its own
        seen = found.get(row.key, _Judged())
        found[row.key] = _Judged(tags=_merged(seen.tags, row.tags), refusal=_also(seen.refusal, row))
    for row in plan.rows:
        found[row.key] = _Judged(row.action, row.role, row.tags, row.because, along[row.key])
    return found


def _merged(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*one, *other}))


def _also(refusals: str, row: PlanRow) -> str:
    return " ".join(sorted({*refusals.split(), row.refusal}))


def _change(before: _Judged, after: _Judged) -> str:
    if before.goes == after.goes:
        return "changed"
    return "goes" if after.goes else "stays"


def _cell(judged: _Judged, name: str) -> object:
    value = getattr(judged, name)
    if name == "along":
        return value if judged.goes else None
    return (" ".join(value) if name == "tags" else value) or None


def _frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    pairs = [f"{name}_{side}" for name in (*_COMPARED, "freed_bytes") for side in ("before", "after")]
    frame = pd.DataFrame(records, columns=["key", "repository", "digest", "change", *pairs])
    numbers = [name for name in pairs if name.startswith(("along", "freed_bytes"))]
    types = dict.fromkeys(frame.columns, "string") | dict.fromkeys(numbers, "Int64")
    return frame.astype(types | {"change": pd.CategoricalDtype(list(CHANGES))})


def _shown(row: Mapping[Any, Any]) -> list[object]:
    tags = row["tags_after"] if pd.notna(row["tags_after"]) else row["tags_before"]
    digest = Digest(row["digest"]).short if pd.notna(row["digest"]) else ""
    said = [_said(row, side) for side in ("before", "after")]
    return [row["repository"], tags if pd.notna(tags) else "", digest, row["change"], *said]


def _said(row: Mapping[Any, Any], side: str) -> str:
    """Return in a few words what one plan says of a row."""
    if pd.notna(row[f"refusal_{side}"]):
        return f"refused: {row[f'refusal_{side}']}"
    if pd.isna(row[f"action_{side}"]):
        return "not in the plan"
    along = f", {row[f'along_{side}']} along" if row[f"along_{side}"] else ""
    return f"{row[f'action_{side}']} ({row[f'role_{side}']}{along})"


__all__ = ["CHANGES", "PlanDifference", "compared"]
