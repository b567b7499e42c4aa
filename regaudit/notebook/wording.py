"""Wording: how rows, runs and images are put into words for the page. Every text is cleaned and cut here.

What comes out are plain values, which the page makes into text nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from regaudit.cleaner.outcomes import Run
from regaudit.cleaner.rows import DELETE_TAG, PUT_INDEX, PlanRow
from regaudit.notebook.listing import Member
from regaudit.text import clean, count_of, human_age, human_bytes, isoformat, parse_time

if TYPE_CHECKING:
    from regaudit.cleaner.plan import Plan
    from regaudit.inventory.image import ImageDetails

# What a person can take in, and what keeps a hostile row from filling the page.
TEXT_SENT = 300
_TAGS_SENT = 100
# So many members stand under a group at once, and so many once it was opened.
FEW_ALONG, MOST_ALONG = 6, 200
_DETAIL_ROWS = 200
_PLURALS = {"child": "children"}
_KINDS = {DELETE_TAG: "tag only", PUT_INDEX: "list, written again"}


def short(digest: str | None) -> str:
    """Return the beginning of a digest, as people read it."""
    return clean(digest[: digest.find(":") + 13], 80) if digest else ""


def tag_text(row: PlanRow, limit: int = 5) -> str:
    """Return the first tags of a row, and how many more there are."""
    shown = ", ".join(row.tags[:limit])
    return clean(f"{shown} and {len(row.tags) - limit} more" if len(row.tags) > limit else shown, TEXT_SENT)


def name_of(row: PlanRow) -> str:
    """Return what a row is called where it stands alone."""
    return clean(f"{row.repository} {tag_text(row) or short(row.digest)}", TEXT_SENT)


def words_of(outcome: str) -> str:
    """Return an outcome as people read it."""
    return clean(outcome.replace("_", " "), 80)


def counted(counts: Mapping[str, int]) -> str:
    """Return how many rows came to what, the most first."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count:,} {words_of(word)}" for word, count in ordered) or "nothing"


def phrase_of(plan: Plan) -> str:
    """Return what a person types to confirm: the number of digests, or of tags where only tags go."""
    return f"delete {plan.digests}" if plan.digests else f"untag {plan.tags}"


# -- rows ------------------------------------------------------------------------------------


def line_of(row: PlanRow, now: datetime | None, depth: int = 0, part: str = "") -> dict[str, Any]:
    """Return one line of the table, but for what depends on a person or a run.

    Parameters
    ----------
    depth : int
        How many rows it goes along with, one with the other.
    part : str
        As what its index lists it: a platform, or an attestation.
    """
    created = parse_time(row.created)
    return {
        "key": clean(row.key),
        "label": name_of(row),
        "depth": depth,
        "role": _role(row, part),
        "repository": clean(row.repository, TEXT_SENT),
        "tags": [clean(tag, 140) for tag in row.tags[:_TAGS_SENT]],
        "more_tags": max(0, len(row.tags) - _TAGS_SENT),
        "digest": short(row.digest),
        "digest_full": clean(row.digest or "", 200),
        "kind": _KINDS.get(row.action) or clean(row.kind, 40),
        "age": human_age(created, now) if now else "?",
        "created": isoformat(created) if created else "not known",
        "size": human_bytes(row.content_bytes),
        "reason": clean(row.reason, TEXT_SENT),
        "why": clean(row.detail, TEXT_SENT),
        "along": "",
        "opened": False,
        "group": "",
        "more": 0,
    }


def _role(row: PlanRow, part: str) -> str:
    if row.role == "candidate":
        return ""
    return clean(part or (row.kind if row.kind == "signature" else row.role), 80)


def along_text(members: Sequence[Member]) -> str:
    """Return what goes along with a row, counted: ``2 children, 1 referrer``."""
    roles = Counter(member.row.role for member in members)
    named = [count_of(count, role, _PLURALS.get(role, "")) for role, count in sorted(roles.items())]
    return clean(", ".join(named), TEXT_SENT)


# -- runs ------------------------------------------------------------------------------------


def earlier_text(run: Run) -> str:
    """Return what there is to know of an earlier run: when, by whom, how far it came."""
    when = max((outcome.at for outcome in run.outcomes), default=None)
    on = f" on {isoformat(when)}" if when else ""
    by = f", approved by {clean(run.by, 80)}" if run.by else ""
    name = f"run {clean(run.id, 80)}{on}{by}"
    undone = f"; it was undone by run {clean(run.undone, 80)}" if run.undone else ""
    if run.stopped and run.planned:
        return f"{len(run.planned) - len(run.left):,} of {len(run.planned):,} rows are done in {name}, which did not come to its end{undone}"
    return f"This plan, or part of it, already ran: {name}, {counted(run.counts())}{undone}"


# -- one image -------------------------------------------------------------------------------


def details_of(image: ImageDetails) -> dict[str, Any]:
    """Return an image in words: its facts, and a table for each thing that there are several of."""
    return {
        "title": clean(image.name, TEXT_SENT),
        "facts": [[name, text] for name, text in image.summary().items() if name != "image"],
        "sections": [
            {
                "name": name,
                "headings": [heading.removesuffix("_bytes").replace("_", " ") for heading in headings],
                "rows": rows[:_DETAIL_ROWS],
                "more": max(0, len(rows) - _DETAIL_ROWS),
            }
            for name, (headings, rows) in image.sections().items()
        ],
    }
