"""Lists of referrers under fallback tags: an entry can go while the list stays. Pure.

A registry without the referrers interface leaves it to its clients to list what refers to a digest, in an
index under the tag ``sha256-<hex>`` (distribution specification, "Referrers Tag Schema"). A referrer that
is deleted must be taken off that list by whoever deletes it, or it is listed for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from regaudit.analysis.graph import Graph, RepositoryGraph
from regaudit.cleaner.rows import DELETE_MANIFEST, PUT_INDEX, PlanOptions, PlanRow
from regaudit.reference import split_attached_tag


def lists(graph: RepositoryGraph, index: str, digest: str, options: PlanOptions) -> bool:
    """Return whether an index is the list of what refers to the subject of a digest, and nothing else."""
    tags = graph.tags_of.get(index, ())
    subjects = graph.subjects.get(digest, ())
    return (
        bool(tags)
        and index not in graph.parents
        and all(
            graph.attached.get(tag) in subjects and split_attached_tag(tag) == (tag, "") and not options.protects(tag)
            for tag in tags
        )
    )


def list_rows(graph: Graph, rows: Iterable[Mapping[str, Any]]) -> list[PlanRow]:
    """Return a row for each list that loses entries and stays: it is written again after they are gone.

    Parameters
    ----------
    rows : iterable of mapping
        What goes: ``repository``, ``digest`` and ``action`` of each row of the plan.
    """
    going = {(row["repository"], row["digest"]): None for row in rows if row["action"] == DELETE_MANIFEST}
    losing: dict[tuple[str, str], list[str]] = {}
    for repository, digest in going:
        for index in graph.repository(repository).parents.get(digest, ()):
            if (repository, index) not in going:
                losing.setdefault((repository, index), []).append(f"{repository}@{digest}")
    return [
        PlanRow(
            repository=repository,
            digest=index,
            tags=(tag,),
            action=PUT_INDEX,
            role="list",
            kind="index",
            because=lost[0],
            needs=tuple(lost),
        )
        for (repository, index), lost in losing.items()
        for tag in graph.repository(repository).tags_of.get(index, ())
    ]


__all__ = ["list_rows", "lists"]
