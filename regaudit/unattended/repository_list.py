"""The list of repositories that an unattended run is given: a line for each, as people and other systems write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from regaudit.errors import InvalidReference, UsageError
from regaudit.reference import check_pattern
from regaudit.text import clean

# A hundred thousand long names.
_LARGEST = 32 << 20
_COMMENT = re.compile(r"(?:^|\s)#.*")


def load_repositories(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names and patterns in a file, each once.

    Empty lines, what follows ``#``, spaces around a name, a byte order mark and the line ends of any
    system are no part of a name.

    Raises
    ------
    UsageError
        The file cannot be read, or names nothing: an empty list would clean nothing, and say so to nobody.
    InvalidReference
        A line that is no name and no pattern; the message says which.
    """
    names: dict[str, None] = {}
    for number, line in enumerate(_read(Path(path)).splitlines(), start=1):
        name = _COMMENT.sub("", line).strip()
        if not name:
            continue
        try:
            names[check_pattern(name)] = None
        except InvalidReference as error:
            raise InvalidReference(f"{clean(path)}, line {number}: {error}") from None
    if not names:
        raise UsageError(f"{clean(path)} names no repository: write one on each line, or leave the list out")
    return tuple(names)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{clean(path)} is too large for a list of repositories")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"the list of repositories {clean(path)} cannot be read ({clean(error.strerror, 80)})"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{clean(path)} is not UTF-8 text: save it as that") from None


__all__ = ["load_repositories"]
