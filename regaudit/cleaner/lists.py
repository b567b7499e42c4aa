"""Lists of referrers under fallback tags: an entry can go while the list stays. Pure.

A registry without the referrers interface leaves it to its clients to list what refers to a digest, in an
index under the tag ``sha256-<hex>`` (distribution specification, "Referrers Tag Schema"). A referrer that
is deleted must be taken off that list by whoever deletes it, or it is listed for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def list_rows(graph: Graph, rows: Iterable[PlanRow]) -> list[PlanRow]:
    """Return a row for each list that loses entries and stays: it is written again after they are gone."""
    going = {(row.repository, row.digest): row for row in rows if row.action == DELETE_MANIFEST}
    losing: dict[tuple[str, str], list[PlanRow]] = {}
    for (repository, digest), row in going.items():
        for index in graph.repository(repository).parents.get(str(digest), ()):
            if (repository, index) not in going:
                losing.setdefault((repository, index), []).append(row)
    return [
        PlanRow(
            repository=repository,
            digest=index,
            tags=(tag,),
            action=PUT_INDEX,
            role="list",
            kind="index",
            because=lost[0].key,
            needs=tuple(row.key for row in lost),
        )
        for (repository, index), lost in losing.items()
        for tag in graph.repository(repository).tags_of.get(index, ())
    ]


__all__ = ["list_rows", "lists"]
