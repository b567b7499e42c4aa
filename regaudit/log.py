"""The log: what a person sees of it, and in which form.

Every module logs to a child of the logger ``regaudit``. The levels are those of the standard library and
one below them: at ``INFO`` what happens, at ``DEBUG`` one record per HTTP request and one per response, at
`BODIES` their headers and bodies too. What a record says in fields stands on the record itself
(``record.method``, ``record.status``), so that a handler of one's own needs no parsing. Secrets are
taken out before a record is made, not by a handler.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO, Any

from regaudit.text import redact

# Below DEBUG: whoever asks for bodies asks for a lot.
BODIES = 5
logging.addLevelName(BODIES, "BODIES")

# What a record of the client may carry beside its message, in the order of a JSON line.
FIELDS = ("event", "method", "url", "purpose", "attempt", "status", "seconds", "bytes", "error", "headers", "body")

_LEVELS = (logging.WARNING, logging.DEBUG, BODIES)
_LONGEST_MESSAGE = 8192


class TextLine(logging.Formatter):
    """A record as one line for a person: ``time LEVEL logger: message``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; headers and body follow it, indented, where the record has them."""
        line = f"{_moment(record)} {record.levelname} {record.name}: {_message(record)}"
        headers = getattr(record, "headers", None) or {}
        more = [f"    {name}: {value}" for name, value in headers.items()]
        body = getattr(record, "body", None)
        return "\n".join([line, *more, *([f"    {body}"] if body else [])])


class JsonLine(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and the fields that it carries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, ASCII alone."""
        line: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        line.update({name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None})
        return json.dumps(line, default=str)


def show_log(verbosity: int = 1, *, as_json: bool = False, stream: IO[str] | None = None) -> None:
    """Show regaudit's log, in a notebook or a script; called again, it changes how.

    Parameters
    ----------
    verbosity : int
        0 shows warnings, 1 a line for each request and each response, 2 their headers and bodies too.
    as_json : bool
        Write lines of JSON instead of text.
    stream : file, optional
        Where to; standard error unless given.

    Examples
    --------
    >>> import sys
    >>> show_log(1, stream=sys.stdout)
    >>> logging.getLogger("regaudit.client").isEnabledFor(logging.DEBUG)
    True
    >>> show_log(0)
    """
    logger = logging.getLogger("regaudit")
    for handler in [own for own in logger.handlers if isinstance(own, _Shown)]:
        logger.removeHandler(handler)
    shown = _Shown(sys.stderr if stream is None else stream)
    shown.setFormatter(JsonLine() if as_json else TextLine())
    logger.addHandler(shown)
    logger.setLevel(_LEVELS[min(max(verbosity, 0), len(_LEVELS) - 1)])


class _Shown(logging.StreamHandler[IO[str]]):
    """The handler that `show_log` puts in place, and finds again."""


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    return redact(record.getMessage(), _LONGEST_MESSAGE)
