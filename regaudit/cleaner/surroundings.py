"""Surroundings: what a repository looks like around a deletion, and what came into it after the review.

Nothing here deletes or writes. A plan was made of a snapshot, and people push meanwhile: everything that
could make a reviewed deletion take something along that nobody reviewed is looked for here, just before it;
and just after it, whether all that was to stay is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, PUT_INDEX, PlanRow
from regaudit.client import v2
from regaudit.client.exchange import Conversation, Session
from regaudit.client.registry import Registry
from regaudit.errors import NotFound
from regaudit.manifest import Index
from regaudit.reference import Digest, attached_tag, split_attached_tag, subject_of_tag

# So many tags are read one after the other: starting a pool for them would take longer.
_FEW = 3
# Between two rows only their own tags and new names are read; after so many seconds all tags are again.
_LOOK_AT_ALL_AFTER = 60.0
# So long the list of tags that was read before one deletion serves the beginning of the next (seconds).
_LIST_IS_FRESH = 1.0
# Nobody nests indexes this deep; without an end, a hostile registry could keep it reading.
_DEEPEST = 8


class Surroundings:
    """What is known of a repository while rows of it are deleted.

    Parameters
    ----------
    rows : sequence of PlanRow
        The plan's rows in this repository.

    Attributes
    ----------
    tags : dict
        Every tag that is listed, with its digest; None where its manifest is gone.
    """

    def __init__(self, registry: Registry, plan: Plan, repository: str, rows: Sequence[PlanRow]) -> None:
        self.repository = repository
        self.tags: dict[str, str | None] = {}
        self._registry, self._session = registry, registry.session
        self._state = plan.state.get(repository, {})
        # Fallback tags whose lists lose what goes, with the digest of each: under these tags they hold nothing of the plan.
        self._lists = {row.tags[0]: str(row.digest) for row in rows if row.action == PUT_INDEX}
        # What had a tag when the plan was made was looked at then, with all that it refers to.
        tagged = {digest for digest in self._state.values() if digest is not None}
        self._reviewed = tagged.union(str(row.digest) for row in rows)
        # Whose references need no more reading: they were reviewed, or they were followed.
        self._known = set(self._reviewed)
        # What something newer than the review leads to, and was read for it, reviewed digests too.
        self._followed: set[str] = set()
        # Every tag that was seen with a digest; and what came after the review and needs a digest: its tag.
        self._seen: dict[str, str] = {}
        self._referenced: dict[str, str] = {}
        # Tags that led nowhere at first.
        self._dangling: frozenset[str] = frozenset()
        # On the monotonic clock: when all tags are due, and when the list was read.
        self._all_again, self._listed = 0.0, -_LIST_IS_FRESH

    # -- before -------------------------------------------------------------------------------

    def look(self, row: PlanRow | None = None) -> None:
        """Read the list of tags, and of these any new name and those on a row; all of them at first, and where that is due.

        Raises
        ------
        RegistryError
            Something could not be read, so that nobody knows what a deletion would take along.
        """
        names = list(self.tags)
        if row is None or time.monotonic() - self._listed >= _LIST_IS_FRESH:
            names = self._list()
        if row is None or time.monotonic() >= self._all_again:
            self._all_again = time.monotonic() + _LOOK_AT_ALL_AFTER
            self._read(names)
        else:
            aliases = {*self.tags_on(row.digest), *row.tags}
            self._read([name for name in names if name not in self.tags or name in aliases])
        if row is None:
            self._dangling = frozenset(tag for tag, digest in self.tags.items() if digest is None)
        elif row.action == DELETE_MANIFEST:
            self._read_referrers(row)

    def last_look(self, row: PlanRow) -> str:
        """Read the list of tags as the very last thing before the deletion, and return what came in between, if it matters.

        Reading the manifest and writing the record takes longer than a push does.
        """
        self._read([name for name in self._list() if name not in self.tags])
        return self.changed(row)

    def changed(self, row: PlanRow) -> str:
        """Return why a row is not as it was reviewed, or an empty text."""
        if moved := sorted(tag for tag in row.tags if self.tags.get(tag) not in {None, row.digest}):
            return f"tag_moved: {moved[0]} is another digest now"
        if row.action == DELETE_TAG:
            return ""
        if new := [tag for tag in self.tags_on(row.digest) if tag not in row.tags]:
            return f"new_alias: {new[0]} was set to it after the review"
        digest = Digest(str(row.digest))
        if newcomer := self._referenced.get(digest) or self._referenced.get(attached_tag(digest)):
            return f"now_referenced: {newcomer} came after the review and needs it"
        return ""

    def tags_on(self, digest: str | None) -> list[str]:
        """Return the tags that were last seen on a digest, sorted."""
        return sorted(tag for tag, pointed in self.tags.items() if pointed == digest)

    # -- what a deletion has changed ----------------------------------------------------------

    def forget(self, tags: Iterable[str]) -> None:
        """Take note that tags went."""
        for tag in tags:
            self.tags.pop(tag, None)

    def knows(self, digest: str) -> None:
        """Take note of a manifest that was written here: what it refers to is known."""
        self._known.add(digest)

    # -- after --------------------------------------------------------------------------------

    def lost(self, touched: AbstractSet[str], gone: AbstractSet[str]) -> dict[str, tuple[str | None, str]]:
        """Return the tags that were to stay and are gone, and those that came meanwhile and lack what was deleted.

        Parameters
        ----------
        touched : set of str
            Tags that were to go, or that were asked for.
        gone : set of str
            Digests that were deleted.

        Returns
        -------
        dict
            By tag, the digest that it had, or None, and a sentence.

        Raises
        ------
        RegistryError
            It could not be read.
        """
        kept = {tag: digest for tag, digest in self._seen.items() if tag not in touched}
        names = set(self._registry.run(v2.tags(self._session, self.repository)).all())
        new = names - self._seen.keys() - self._dangling
        after = self._digests([*kept, *sorted(new)])
        if None in after.values():
            self._registry.run(still_a_registry(self._session, self.repository))
        vanished = "the tag was to stay, and is gone: somebody deleted or pushed it meanwhile"
        found: dict[str, tuple[str | None, str]] = {tag: (kept[tag], vanished) for tag in kept if after[tag] is None}
        for tag in sorted(new):
            digest = after[tag]
            if digest is None:
                found[tag] = None, "it was pushed while its manifest was being deleted: undo puts the manifest back"
                continue
            self._referenced.clear()
            self._followed.clear()
            self._follow(digest, tag)
            if broken := sorted(gone & self._referenced.keys()):
                detail = f"it was pushed meanwhile and needs {broken[0]}, which was deleted: undo puts it back"
                found[tag] = digest, detail
        return found

    # -- reading ------------------------------------------------------------------------------

    def _list(self) -> list[str]:
        names = list(self._registry.run(v2.tags(self._session, self.repository)).all())
        self._listed = time.monotonic()
        self.tags = {name: self.tags[name] for name in names if name in self.tags}
        return names

    def _read(self, names: Iterable[str]) -> None:
        """Read tags, and what those that changed since the review refer to."""
        for tag, digest in self._digests(names).items():
            self.tags[tag] = digest
            if digest is None:
                continue
            self._seen[tag] = digest
            changed, parts = self._state.get(tag) != digest, split_attached_tag(tag)
            if parts is not None and changed:
                self._referenced[parts[0]] = tag
            if tag not in self._lists and changed and self._holds_newly(digest):
                self._follow(digest, tag)
            for needed in (digest, subject_of_tag(tag)):
                if needed is not None and needed not in self._known:
                    self._follow(needed, tag)

    def _holds_newly(self, digest: str) -> bool:
        """Return whether a digest that was reviewed may hold more, once somebody has given it another name.

        A list of referrers holds nothing by itself until then, and a signature may go along with its subject until then.
        """
        return digest in self._lists.values() or (digest in self._reviewed and digest not in self._followed)

    def _digests(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return what tags point to now, None where the manifest is gone."""
        asked = {name: tag_digest(self._session, self.repository, name) for name in names}
        if len(asked) <= _FEW:
            return {name: self._registry.run(conversation) for name, conversation in asked.items()}
        found: dict[str, str | None] = {}
        with self._registry.bulk() as bulk:
            for name, conversation in asked.items():
                bulk.submit(name, conversation)
            for result in bulk.results():
                if result.error is not None:
                    raise result.error
                found[str(result.key)] = result.value
        return found

    def _follow(self, digest: str, tag: str, depth: int = 0) -> None:
        """Note what a manifest that the plan does not know of refers to, through what was reviewed too.

        An index that came after the review may list a signature that was to go along with its subject: now both stay.
        """
        self._known.add(digest)
        self._followed.add(digest)
        try:
            manifest = self._registry.run(v2.get_manifest(self._session, self.repository, digest))
        except NotFound:
            return
        below = [child.digest for child in manifest.manifests] if isinstance(manifest, Index) else []
        about = [manifest.subject.digest] if manifest.subject is not None else []
        held = [] if depth == 0 and tag in self._lists else below
        self._referenced.update(dict.fromkeys((*held, *about), tag))
        for other in (*below, *about):
            if other not in self._followed and depth < _DEEPEST:
                self._follow(other, tag, depth + 1)

    def _read_referrers(self, row: PlanRow) -> None:
        listed = self._registry.run(v2.listed_referrers(self._session, self.repository, Digest(str(row.digest))))
        for descriptor in listed or ():
            if descriptor.digest in self._reviewed:
                continue
            # some registries go on listing what is gone
            if self._registry.run(is_there(self._session, self.repository, descriptor.digest)):
                self._referenced[str(row.digest)] = f"the referrer {descriptor.digest.short}"


# -- single reads ----------------------------------------------------------------------------


def is_there(session: Session, repository: str, digest: str) -> Conversation[bool]:
    """Return whether a manifest is there."""
    try:
        yield from v2.get_manifest(session, repository, digest)
    except NotFound:
        return False
    return True


def tag_digest(session: Session, repository: str, tag: str) -> Conversation[str | None]:
    """Return what a tag points to now, None where its manifest is gone."""
    try:
        head = yield from v2.head_manifest(session, repository, tag)
        if head.digest is not None:
            return str(head.digest)
    except NotFound:
        pass  # some registries answer 404 to every HEAD: only GET is definite
    try:
        return str((yield from v2.get_manifest(session, repository, tag)).digest)
    except NotFound:
        return None


def still_a_registry(session: Session, repository: str) -> Conversation[None]:
    """Raise unless tags are listed, or refused with a code that only a registry has."""
    listing = yield from v2.tags(session, repository)
    if listing.error is not None and listing.error.code is None:
        raise listing.error


__all__ = ["Surroundings", "is_there", "still_a_registry", "tag_digest"]
