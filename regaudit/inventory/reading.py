"""What every reading of a registry has, of whichever interface: what is selected, and what was not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regaudit.errors import UsageError
from regaudit.inventory.tables import columns_of, conform, digest_dtype
from regaudit.reference import check_pattern, compile_pattern, is_literal
from regaudit.text import clean


@dataclass(frozen=True, slots=True)
class Selection:
    """Which repositories are to be read."""

    patterns: tuple[str, ...]
    excluded: tuple[str, ...]

    @classmethod
    def of(cls, patterns: tuple[str, ...], exclude: Iterable[str]) -> Selection:
        """Return what patterns and exclusions select; raises `InvalidReference` where one is none."""
        if isinstance(exclude, str):
            raise UsageError(f"exclude is one text where several are expected: write [{clean(exclude, 80)!r}]")
        return cls(tuple(map(check_pattern, patterns)), tuple(map(check_pattern, exclude)))

    @property
    def literals(self) -> list[str]:
        """The names that were typed out: they are read whether or not a catalog lists them."""
        return [name for name in dict.fromkeys(self.patterns) if is_literal(name) and not self.leaves_out(name)]

    @property
    def needs_catalog(self) -> bool:
        """Whether the registry must list its repositories."""
        return not self.patterns or any(not is_literal(pattern) for pattern in self.patterns)

    def of_catalog(self, names: Iterable[str]) -> list[str]:
        """Return which names of a catalog are selected."""
        wanted = [compile_pattern(pattern) for pattern in self.patterns]
        matching = (name for name in names if not wanted or any(pattern.fullmatch(name) for pattern in wanted))
        return [name for name in matching if not self.leaves_out(name)]

    def leaves_out(self, name: str) -> bool:
        """Return whether a repository was excluded."""
        return any(compile_pattern(pattern).fullmatch(name) for pattern in self.excluded)


def problem_table(problems: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return problems as their table, sorted by place; what a row does not have is missing."""
    ordered = sorted(problems, key=_place)
    columns = {name: [problem.get(name) for problem in ordered] for name in columns_of("problems")}
    return conform("problems", columns, digest_dtype(()))


def _place(problem: Mapping[str, Any]) -> tuple[str, str, str]:
    return problem["repository"] or "", problem["stage"], problem["identifier"] or ""
