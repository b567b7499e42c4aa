"""What a report shows of each table and finding: its heading, its columns, its rule, and how a value reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from regaudit.inventory.snapshot import Snapshot
from regaudit.text import clean, human_bytes


@dataclass(frozen=True, slots=True)
class Table:
    """A table as people see it: which columns are shown under which heading.

    Attributes
    ----------
    name : str
        Of the frame, and of its file.
    heading : str
        What it is called.
    columns : mapping of str to str
        The columns that are shown, and what each is called.
    none : str
        What is said where it has no row.
    finding : bool
        Whether a row is something to look at, rather than what is there.
    """

    name: str
    heading: str
    columns: Mapping[str, str]
    none: str
    finding: bool = True


_FINDING_COLUMNS = {
    "repository": "repository",
    "tag": "tag",
    "digest": "digest",
    "created": "created",
    "content_bytes": "content",
    "reason": "reason",
}
TABLES_SHOWN = (
    Table(
        "footprint",
        "Repositories",
        {
            "repository": "repository",
            "tag_count": "tags",
            "manifest_count": "manifests",
            "blob_count": "blobs",
            "content_bytes": "content",
            "unique_bytes": "only here",
            "shared_bytes": "shared",
            "complete": "fully read",
        },
        "No repository was to be read.",
        finding=False,
    ),
    Table(
        "stale",
        "Stale tags",
        {
            "repository": "repository",
            "tag": "tag",
            "digest": "digest",
            "created": "created",
            "pushed": "pushed",
            "rank": "rank",
            "content_bytes": "content",
            "reason": "reason",
        },
        "No tag is stale by this rule.",
    ),
    Table(
        "duplicates",
        "Duplicate tags",
        {
            "repository": "repository",
            "tag": "tag",
            "digest": "digest",
            "created": "created",
            "content_bytes": "content",
            "reason": "reason",
        },
        "No tag holds the same content as another one.",
    ),
    Table(
        "broken_tags",
        "Broken tags",
        _FINDING_COLUMNS,
        "No tag that was read is broken, as far as manifests and configs tell; blobs were not asked for.",
    ),
    Table(
        "orphaned_signatures",
        "Orphaned signatures",
        _FINDING_COLUMNS,
        "No orphan was found in the repositories that were read completely.",
    ),
    Table(
        "largest_images",
        "Largest images",
        {**_FINDING_COLUMNS, "unique_bytes": "held by it alone"},
        "No image of known size has a tag.",
    ),
    Table(
        "largest_layers",
        "Largest layers",
        {
            "digest": "digest",
            "size_bytes": "size",
            "manifest_count": "manifests",
            "repository_count": "repositories",
            "repositories": "in",
        },
        "No layer of known size was read.",
    ),
    Table(
        "missing_labels",
        "Without labels",
        _FINDING_COLUMNS,
        "No image whose config was read lacks one of the labels.",
    ),
    Table(
        "naming_streams",
        "Names of tags",
        {
            "repository": "repository",
            "stream": "stream",
            "tag_count": "tags",
            "digest_count": "digests",
            "content_bytes": "content",
            "oldest": "oldest",
            "newest": "newest",
            "example": "example",
        },
        "No tag was read.",
        finding=False,
    ),
    Table(
        "tags",
        "All tags",
        {
            "repository": "repository",
            "tag": "tag",
            "kind": "kind",
            "digest": "digest",
            "created": "created",
            "content_bytes": "content",
        },
        "No tag was read.",
        finding=False,
    ),
    Table(
        "problems",
        "Problems",
        {
            "repository": "repository",
            "identifier": "what",
            "stage": "while reading",
            "error": "error",
            "status": "status",
            "message": "message",
            "blocking": "blocks deletion",
        },
        "None: everything was read.",
    ),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """By what a report chose its rows.

    Attributes
    ----------
    older_than : str or None
        Of stale tags; the cut in the picture of ages too.
    keep_latest : int or None
        Of stale tags.
    labels : tuple of str
        What every image should carry.
    given : frozenset of str
        The frames that were given to the report, made by a rule that it does not know.
    """

    older_than: str | None
    keep_latest: int | None
    labels: tuple[str, ...]
    given: frozenset[str]

    def sentences(self) -> dict[str, str]:
        """Return what is said above each table."""
        given = "As given to the report: each row says why it is here."
        conditions = [f"older than {self.older_than} by the time of creation"] if self.older_than is not None else []
        if self.keep_latest is not None:
            conditions.append(f"not among the {self.keep_latest} newest images of its repository")
        stale = f"Rule: {', and '.join(conditions)}; a tag of unknown age is never stale."
        duplicates = (
            "Rule: another tag of the same repository, which is not listed, has the same digest, config or layers."
        )
        then = (
            " What would go with these tags, what is refused, and how many bytes come back, is what a plan says: "
            "regaudit plan."
        )
        return {
            "footprint": "Bytes of distinct configs and layers. Shared ones come back only when every repository "
            "gives them up.",
            "stale": (given if "stale" in self.given else stale) + then,
            "duplicates": (given if "duplicates" in self.given else duplicates) + then,
            "broken_tags": "Tags that cannot be pulled, or not for every platform: the manifest, a child of the index "
            "or a config is gone.",
            "orphaned_signatures": "Signatures, attestations and SBOMs of which nothing in the repository leads to the "
            "subject." + then,
            "largest_images": "By the distinct configs and layers of an image and its children; what it alone holds "
            "would come back with it.",
            "largest_layers": "A layer goes when the last manifest that holds it goes.",
            "missing_labels": f"Labels or annotations that every image should have: {', '.join(self.labels)}.",
            "naming_streams": "What tags are called; what two streams share counts in both.",
            "tags": "Every tag that was listed; a missing digest is one that was not read.",
            "problems": "What was not read, and whether that keeps anything there from being deleted.",
        }


# -- values -----------------------------------------------------------------------------------


def is_number(name: str) -> bool:
    """Return whether a column is of numbers."""
    return name.endswith(("_bytes", "_count", "_days")) or name in {"rank", "status"}


def shown(name: str, value: Any) -> str:
    """Return a value of a column as people read it; nothing where it is not known."""
    if pd.isna(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value)
    if name.endswith("_bytes"):
        return human_bytes(value)
    if name == "digest":
        return short(str(value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def short(digest: str) -> str:
    """Return the beginning of a digest, enough to tell it from others."""
    algorithm, _, encoded = clean(digest).partition(":")
    return f"{algorithm}:{encoded[:12]}" if encoded else algorithm[:20]


def moment(time: datetime) -> str:
    """Return a time with its zone."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def not_everything(snapshot: Snapshot) -> str:
    """Return the warning that not everything was read, or nothing."""
    return "" if snapshot.complete else "Not everything was read: see Problems. Figures are of what was read."
