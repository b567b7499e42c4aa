"""Table: what a person has made of a plan's rows by filtering, sorting, paging and opening. Pure.

It takes what the page asks for about looking, and gives the lines in view. Nothing here selects or deletes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import PlanRow, no_collector
from regaudit.errors import RegauditError, UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.notebook.listing import (
    COLUMNS,
    LONGEST_FILTER,
    NAME,
    REFUSED,
    ROWS,
    Filter,
    Listing,
    Look,
    grouped,
)
from regaudit.notebook.wording import FEW_ALONG, MOST_ALONG, TEXT_SENT, along_text, line_of
from regaudit.text import clean, human_bytes, redact

# More names than these nobody picks from a list: what is typed finds the others.
_NAMES_SENT = 300

# What only the form knows of a row: whether it is ticked and may be, and what became of it.
Personal = Callable[[PlanRow, bool], dict[str, Any]]


class Table:
    """The rows of a plan, and of what it refuses, as a person looks at them.

    Parameters
    ----------
    plan : Plan
    now : datetime or None
        When ages are counted from.
    page_size : int
        How many groups are shown at a time.
    outcome_of : callable
        Returns what became of the row of a key, in words; empty where nothing did.

    Attributes
    ----------
    look : Look
        What is looked at.
    """

    def __init__(
        self, plan: Plan, now: datetime | None, page_size: int, outcome_of: Callable[[str], str] = lambda _: ""
    ) -> None:
        self.look = Look()
        self._now, self._page_size, self._outcome_of = now, page_size, outcome_of
        self._problem = ""
        self.open(plan)

    def open(self, plan: Plan) -> None:
        """Look at another plan, from its beginning."""
        with no_collector():
            first, along = grouped(plan.rows)
        self._sections = {ROWS: Listing(first, along, self._now), REFUSED: Listing(plan.refused, {}, self._now)}
        self._places_of: dict[str, int] | None = None
        self._snapshot = plan.snapshot
        self._parts_of: dict[str, dict[str, str]] = {}
        self._ordered: list[int] | None = None
        self._names_due = True
        self.look = replace(self.look, section=ROWS, filter=Filter(), page=0)

    # -- what the page asks for ---------------------------------------------------------------

    def ask(self, message: Mapping[str, Any]) -> bool:
        """Carry out what a person wants to see, and return whether other rows may be in view now.

        Raises
        ------
        UsageError
            It makes no sense; nothing has changed then.
        """
        before = self.look
        self.look = self._asks[str(message["do"])](self, message)
        if self.look.section != before.section:
            self._names_due = True
        if replace(self.look, page=before.page, turned=before.turned, whole=before.whole) != before:
            self._ordered = None
        return _rows_of(self.look) != _rows_of(before)

    def _filter(self, message: Mapping[str, Any]) -> Look:
        given = self.look.filter
        texts = {
            name: str(message.get(name, getattr(given, name)))[:LONGEST_FILTER]
            for name in Filter.names()
            if name != "regex"
        }
        regex = message.get("regex", given.regex) is True
        return replace(self.look, filter=Filter(**texts, regex=regex), page=0)

    def _sort(self, message: Mapping[str, Any]) -> Look:
        column = str(message.get("column") or "")
        if column and column not in COLUMNS:
            raise UsageError(f"there is no column {clean(column, 40)!r}")
        return replace(self.look, column=column, descending=bool(message.get("descending")), page=0)

    def _page(self, message: Mapping[str, Any]) -> Look:
        page = message.get("page")
        if not isinstance(page, int):
            raise UsageError("a page is a number")
        return replace(self.look, page=max(0, page))

    def _section(self, message: Mapping[str, Any]) -> Look:
        if message.get("section") not in self._sections:
            raise UsageError("there is no such section")
        return replace(self.look, section=str(message["section"]), page=0)

    def _columns(self, message: Mapping[str, Any]) -> Look:
        wanted = message.get("columns")
        if not isinstance(wanted, list):
            raise UsageError("columns are a list of names")
        # Without the name of a row nobody knows what is ticked.
        return replace(self.look, columns=frozenset(name for name in COLUMNS if name in wanted) | {NAME})

    def _along(self, message: Mapping[str, Any]) -> Look:
        return replace(self.look, along=message.get("shown") is True, turned=frozenset(), whole=frozenset())

    def _open(self, message: Mapping[str, Any]) -> Look:
        key = message.get("key")
        if not isinstance(key, str) or key not in self._group_of():
            raise UsageError(f"{clean(key, 120)!r} is not a row of this plan")
        if message.get("whole") is True:
            return replace(self.look, whole=self.look.whole ^ {key})
        return replace(self.look, turned=self.look.turned ^ {key})

    _asks: Mapping[str, Callable[[Table, Mapping[str, Any]], Look]] = {
        "filter": _filter,
        "sort": _sort,
        "page": _page,
        "section": _section,
        "columns": _columns,
        "along": _along,
        "open": _open,
    }

    def repeat_names(self) -> None:
        """Tell the names to choose from once more: a page has come that does not know them."""
        self._names_due = True

    def follow(self, key: str) -> None:
        """Turn to the page where a row is, as long as a person has not chosen what to see."""
        place = self._group_of().get(key)
        if place is not None and not self.look.column and not self.look.filter and self.look.section == ROWS:
            self.look = replace(self.look, page=place // self._page_size)

    # -- what is in view ----------------------------------------------------------------------

    def matching(self) -> list[str]:
        """Return the keys of all groups that match and can be selected, in order, on this page and on others.

        Raises
        ------
        UsageError
            These are refused rows, which nobody can select.
        """
        if self.look.section != ROWS:
            raise UsageError("refused rows cannot be selected")
        keys, selectable = self._sections[ROWS].keys, self._sections[ROWS].selectable
        return [keys[place] for place in self._places() if keys[place] in selectable]

    def prepare(self) -> None:
        """Build what the first click would have to wait for; may run beside everything else."""
        _ = self._sections[ROWS].selectable

    def _group_of(self) -> dict[str, int]:
        """Return in which group each row is."""
        if self._places_of is None:
            listing = self._sections[ROWS]
            self._places_of = {key: place for place, key in enumerate(listing.keys)}
            for key, members in listing.along.items():
                self._places_of |= {member.row.key: self._places_of[key] for member in members}
        return self._places_of

    def view(self, personal: Personal) -> dict[str, Any]:
        """Return all that the page needs to show the table.

        Parameters
        ----------
        personal : callable
            Is given a row, and whether it is the first of its group.
        """
        places, look = self._places(), self.look
        listing = self._sections[look.section]
        last = max(0, (len(places) - 1) // self._page_size)
        page = min(look.page, last)
        shown = places[page * self._page_size : (page + 1) * self._page_size]
        return {
            "section": look.section,
            "counts": {name: len(section) for name, section in self._sections.items()},
            "filter": {name: getattr(look.filter, name) for name in Filter.names()},
            "filtered": bool(look.filter),
            "filter_error": self._problem,
            "column": look.column,
            "descending": look.descending,
            "columns": [name for name in COLUMNS if name in look.columns],
            "along": look.along,
            "any_along": bool(listing.along),
            "page": page,
            "pages": last + 1,
            "page_size": self._page_size,
            "matching": len(places),
            "groups": len(shown),
            "rows": [line for place in shown for line in self._group(listing, listing.rows[place], personal)],
            **self._names(listing),
        }

    def _places(self) -> list[int]:
        """Return the places of the groups that match. A filter that cannot be read matches nothing, and says so."""
        if self._ordered is None or self.look.column == "outcome":
            self._problem = ""
            try:
                self._ordered = self._sections[self.look.section].places(self.look, self._outcome_of)
            except RegauditError as error:
                self._ordered, self._problem = [], redact(error, TEXT_SENT)
        return self._ordered

    def _names(self, listing: Listing) -> dict[str, Any]:
        """Return the names that there are to choose from, where the page has not been told them yet."""
        due, self._names_due = self._names_due, False
        return {"names": [clean(name, TEXT_SENT) for name in listing.repositories(_NAMES_SENT)]} if due else {}

    def _part(self, row: PlanRow) -> str:
        """Return as what an index lists a row that goes along with it. A repository is looked through when it is first in view."""
        if row.role != "child" or self._snapshot is None:
            return ""
        if row.repository not in self._parts_of:
            self._parts_of[row.repository] = _parts(self._snapshot, row.repository)
        return self._parts_of[row.repository].get(str(row.digest), "")

    def _group(self, listing: Listing, row: PlanRow, personal: Personal) -> Iterator[dict[str, Any]]:
        """Yield the lines of a group: its first row, and under it what goes along, as much as a person opened."""
        members = listing.along.get(row.key, ())
        opened = bool(members) and self.look.along != (row.key in self.look.turned)
        most = MOST_ALONG if row.key in self.look.whole else FEW_ALONG
        shown = members[: most if opened else 0]
        yield {
            **line_of(row, self._now),
            "frees": "" if row.refusal else human_bytes(listing.frees(row)),
            "along": along_text(members),
            "opened": opened,
            **personal(row, True),
        }
        for place, member in enumerate(shown, start=1):
            yield {
                **line_of(member.row, self._now, member.depth, self._part(member.row)),
                "frees": human_bytes(member.row.freed_bytes),
                "group": clean(row.key),
                "more": len(members) - place if place == len(shown) else 0,
                **personal(member.row, False),
            }


def _parts(snapshot: Snapshot, repository: str) -> dict[str, str]:
    """Return as what an index of a repository lists each digest: its platform, or that it is an attestation."""
    children = snapshot.children
    listed = children.loc[children["repository"] == repository, ["digest", "platform", "role"]].astype("object")
    return {
        str(digest): "attestation" if role == "attestation" else str(platform)
        for digest, platform, role in listed.itertuples(index=False)
        if role == "attestation" or isinstance(platform, str)
    }


def _rows_of(look: Look) -> tuple[Any, ...]:
    return look.section, look.filter, look.column, look.descending, look.page


__all__ = ["Table"]
