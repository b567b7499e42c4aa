"""collect(): reads a registry into a snapshot; concurrent, keeps going, records what it could not read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypedDict, Unpack, overload

from regaudit.client.registry import Registry
from regaudit.inventory.cache import FILE_NAME, Cache, default_folder
from regaudit.inventory.collect_v1 import ReadingV1
from regaudit.inventory.collect_v2 import ReadingV2
from regaudit.inventory.documents import DocumentWriter
from regaudit.inventory.estimate import Estimate, Survey
from regaudit.inventory.progress import Progress, shown
from regaudit.inventory.reading import Selection
from regaudit.inventory.snapshot import Snapshot
from regaudit.text import owned_folder

# Where a GET of a manifest is metered or counts as a pull, HEAD comes first: Docker Hub says so of its
# rate limit ("HEAD requests are not counted"), GHCR counts downloads.
_METERED = frozenset({"docker.io", "ghcr.io"})


class _Options(TypedDict, total=False):
    """The options of `collect`, for type checkers."""

    exclude: Iterable[str]
    progress: bool | Callable[[Progress], None]
    cache: Cache | str | os.PathLike[str] | bool | None
    referrers: bool
    documents: bool
    head_first: bool | None
    into: str | os.PathLike[str] | None


@overload
def collect(
    registry: Registry, *patterns: str, dry_run: Literal[False] = False, **options: Unpack[_Options]
) -> Snapshot: ...


@overload
def collect(registry: Registry, *patterns: str, dry_run: Literal[True], **options: Unpack[_Options]) -> Estimate: ...


def collect(
    registry: Registry,
    *patterns: str,
    exclude: Iterable[str] = (),
    progress: bool | Callable[[Progress], None] = True,
    cache: Cache | str | os.PathLike[str] | bool | None = True,
    referrers: bool = True,
    documents: bool = True,
    head_first: bool | None = None,
    into: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
) -> Snapshot | Estimate:
    """Read a registry into tables.

    One repository that cannot be read does not stop the others: it becomes a row of ``problems``. An
    interrupt (Ctrl-C, the kernel's stop button) ends the reading, and what was read so far is returned
    with the rest marked as not read.

    The tables are in memory: a million tags on 334,000 images with 3,340,000 blobs take 0.35 GiB when they are
    read, and up to 1.5 GiB while they are sorted.

    A registry of the v1 interface gives the same tables, as far as it can tell: tags with an image id in
    place of a digest, and neither manifests nor blobs. `referrers`, `documents` and `head_first` mean nothing there.

    Parameters
    ----------
    registry : Registry
    *patterns : str
        Names of repositories; ``*`` stands for a part of a name, ``**`` crosses ``/``. None: everything in
        the catalog. A literal name needs no catalog.
    exclude : iterable of str
        Patterns of repositories to leave out.
    progress : bool or callable
        True shows a bar; a callable is given a `Progress`, up to ten times a second and at the end.
    cache : Cache, path, bool or None
        Manifests and configs that were read before: True is the user's own cache, a path another folder, None
        none. What a tag is on is always asked of the registry, and costs a HEAD where it has not moved. What
        hangs on an unmoved tag (the children of an index, configs) is not asked for again if it was there the last
        time: a child that somebody has deleted since, behind the index's back, is noticed only with ``cache=None``.
        One that was missing the last time is asked for again.
    referrers : bool
        Ask for the referrers of every digest where the registry offers that. Without it nothing can be
        deleted, because what a deletion would orphan is not known.
    documents : bool
        Keep the bytes of manifests and configs in ``snapshot.documents``. More than a few megabytes of them are
        in a file, a private one that goes with the snapshot unless `into` is given.
    head_first : bool or None
        Ask for a tag's digest by HEAD, and GET each digest once; None decides by the registry.

    into : path, optional
        Folder to save the snapshot in, as `Snapshot.save` does; many documents go there while they are read.
    dry_run : bool
        Read only the lists of repositories and tags, try a few manifests, and return what all of it would cost.

    Returns
    -------
    Snapshot
        Or, of a dry run, an `Estimate`.

    Raises
    ------
    Unreachable, NotARegistry, AuthenticationFailed
        Before anything is read.
    InvalidReference
        A pattern that is none.
    """
    selection = Selection.of(patterns, exclude)
    metered = registry.host in _METERED if head_first is None else head_first
    if dry_run:
        with _opened(cache=_existing(cache)) as opened:
            return Survey(registry, selection, referrers=referrers, head_first=metered, cache=opened).estimate()
    before = Counter(registry.session.counts)
    folder = None if into is None else owned_folder(into)
    if registry.find_version() == "v1":
        reading: ReadingV2 | ReadingV1 = ReadingV1(registry, selection)
    else:
        reading = ReadingV2(registry, selection, referrers=referrers, head_first=metered)
    with shown(progress=progress) as show, _opened(cache=cache) as opened, DocumentWriter(folder) as writer:
        reading.cache, reading.documents = opened, writer if documents else None
        reading.run(show)
        spent = Counter(registry.session.counts)
        spent.subtract(before)
        asked = (*patterns, *(f"!{pattern}" for pattern in selection.excluded))
        snapshot = reading.snapshot(asked, {purpose: count for purpose, count in spent.items() if count})
        if folder is not None:
            snapshot.save(folder)
    return snapshot


def _existing(cache: Cache | str | os.PathLike[str] | bool | None) -> Cache | str | os.PathLike[str] | None:  # noqa: FBT001 -- as the user gave it
    """Return a cache only where there is one already: a dry run leaves nothing behind."""
    if isinstance(cache, Cache) or cache is None or cache is False:
        return cache or None
    folder = default_folder() if cache is True else Path(cache)
    return folder if (folder / FILE_NAME).exists() else None


@contextmanager
def _opened(*, cache: Cache | str | os.PathLike[str] | bool | None) -> Iterator[Cache | None]:
    """Give the cache to use; one that was opened here is closed here."""
    if isinstance(cache, Cache):
        try:
            yield cache
        finally:
            cache.flush()
    elif cache is None or cache is False:
        yield None
    else:
        with Cache(None if cache is True else cache) as opened:
            yield opened


__all__ = ["collect"]
