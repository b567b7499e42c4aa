"""What makes data safe to show: everything that reaches a screen, a log or a file passes here.

Names, labels, error texts and headers come from a registry and may be hostile. The functions
here are the only place that knows how to defuse them, one per kind of sink.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from regaudit.errors import UsageError

# C0 and C1 controls (ANSI and OSC sequences start with one) and the bidirectional marks that can
# make a name read as another one (Unicode TR 36, "Bidirectional Text Spoofing").
_UNSAFE_CHARACTERS = "\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
_UNSAFE = re.compile(f"[{_UNSAFE_CHARACTERS}\ud800-\udfff]")

# OWASP, "CSV Injection": these first characters make a spreadsheet read a cell as a formula;
# the last four are the full-width forms that some spreadsheets fold to the same.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")

# Finds every text that `csv_guard` would change, and no other, in engines that know no surrogates, such as
# Arrow's (which holds none): a million cells are asked at once, and only those few are guarded one by one.
CSV_SUSPECT = f"[{_UNSAFE_CHARACTERS}]|^[{''.join(map(re.escape, _FORMULA_STARTS))}]"
LONGEST_CELL = 1 << 20

_SECRETS = (
    # A challenge has the same beginning, and is no secret: Basic realm="…".
    re.compile(r"(?i)\b(bearer|basic)\s+(?!realm=\")[A-Za-z0-9._~+/=-]{6,}"),
    # The name may be a part of a longer one (client_secret, AWS_SECRET_ACCESS_KEY); a quoted value goes to its closing quote.
    re.compile(
        r"""(?is)((?:(?:token|password|passwd|secret|credential|signature|(?:access|api|private)_?key)\w{0,24}|\bsig)["']?\s*[:=]\s*)"""
        r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s"'&,;}]+)"""
    ),
    re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://)[^/\s@]+@"),
)

# Secrets of this process: a server may say back what it was shown, in words of its own that no pattern knows. The newest
# ones: a long audit is given many tokens. Shorter ones would take away letters of ordinary words.
_KNOWN_SECRETS: deque[str] = deque(maxlen=64)
_SHORTEST_SECRET = 6
# Messages say these all the time: taking one out of them would tell that it is somebody's password, and spoil the message.
_OUR_WORDS = frozenset(
    [
        "approve",
        "approved",
        "approval",
        "config",
        "delete",
        "deleted",
        "deletion",
        "digest",
        "journal",
        "latest",
        "manifest",
        "password",
        "policy",
        "registry",
        "repository",
        "snapshot",
        "username",
    ]
)

_KIBI = 1024.0
_NO_URL = "(not a URL)"


def clean(text: object, limit: int = 2048) -> str:
    """Return text without control characters and bidi marks, cut to `limit` characters."""
    cleaned = _UNSAFE.sub("\ufffd", str(text))
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def conceal(*secrets: str | None) -> None:
    """Let `redact` take these out of whatever it is given, in this process."""
    known = _OUR_WORDS.union(_KNOWN_SECRETS)
    _KNOWN_SECRETS.extend(s for s in secrets if s is not None and len(s) >= _SHORTEST_SECRET and s not in known)


def redact(text: object, limit: int = 2048) -> str:
    """Return `clean(text)` with tokens, passwords and URL user information replaced by ``***``."""
    redacted = str(text)
    for secret in tuple(_KNOWN_SECRETS):
        redacted = redacted.replace(secret, "***")
    redacted = _SECRETS[0].sub(r"\1 ***", redacted)
    redacted = _SECRETS[1].sub(r"\1***", redacted)
    redacted = _SECRETS[2].sub(r"\1***@", redacted)
    return clean(redacted, limit)


def safe_url(url: str) -> str:
    """Return a URL fit for a message: without user information, query or fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that hold no IPv6 address, and the like
        return _NO_URL
    host = parts.netloc.rpartition("@")[2]
    return clean(urlunsplit((parts.scheme, host, parts.path, "", "")), 512)


# Parameters of the distribution interface that say what is asked for. Any other may be a login: the
# signature of a storage service, the state of an upload session, the page of a vendor.
_OPEN_PARAMETERS = frozenset(
    {"n", "last", "digest", "mount", "from", "artifactType", "digest-algorithm", "tag", "q", "page", "scope", "service"}
)


def log_url(url: str) -> str:
    """Return a URL for the log: as `safe_url`, with the parameters that say what is asked for, and ``***`` for others."""
    shown = safe_url(url)
    pairs = [pair.partition("=") for pair in url.partition("#")[0].partition("?")[2].split("&") if pair]
    if shown == _NO_URL or not pairs:
        return shown
    query = "&".join(f"{name}={value if name in _OPEN_PARAMETERS else '***'}" for name, _, value in pairs)
    return clean(f"{shown}?{query}", 1024)


def escape(text: object) -> str:
    """Return text for HTML: cleaned, and with ``& < > " '`` escaped."""
    return html.escape(clean(text), quote=True)


def csv_guard(value: object) -> object:
    """Return a value for a CSV cell: text that a spreadsheet would run gets a ``'`` in front.

    Other controls are replaced as in `clean`. Values that are not text are returned as they are.
    Source: OWASP, "CSV Injection". The lossless record is the Parquet file beside the CSV.
    """
    if not isinstance(value, str):
        return value
    guarded = "'" + value if value.startswith(_FORMULA_STARTS) else value
    return clean(guarded, LONGEST_CELL)


def count_of(number: int, one: str, many: str = "") -> str:
    """Return a count with its noun, and with whatever else follows the number.

    Examples
    --------
    >>> count_of(1, "digest"), count_of(1200, "repository", "repositories")
    ('1 digest', '1,200 repositories')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def human_bytes(count: object) -> str:
    """Return a size as people read it, in binary units; unknown is ``?``.

    Examples
    --------
    >>> human_bytes(0), human_bytes(1536), human_bytes(None)
    ('0 B', '1.5 KiB', '?')
    """
    try:
        size = float(count)  # type: ignore[arg-type]  # what is no number is answered below
    except (TypeError, ValueError):
        return "?"
    if size != size:  # NaN
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < _KIBI:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KIBI
    return f"{size:.1f} PiB"


def human_age(then: datetime | None, now: datetime) -> str:
    """Return how long ago `then` was, in the one unit that people would use; unknown is ``?``."""
    if then is None or then != then:  # NaT differs from itself
        return "?"
    seconds = (now - then).total_seconds()
    for unit, size in (("y", 365.25 * 86400), ("mo", 30.44 * 86400), ("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"


# A century: long enough for any registry, and far from where date arithmetic overflows.
# (acr-cli#560: `--ago 999999d` overflowed and selected everything.)
LONGEST_DURATION = timedelta(days=36525)

_DURATION = re.compile(r"(\d{1,9})\s*(d|days?|h|hours?|w|weeks?|min|minutes?|s|seconds?)", re.IGNORECASE)
_DURATION_UNITS = {"d": 86400, "h": 3600, "w": 604800, "m": 60, "s": 1}


def parse_duration(value: str | timedelta) -> timedelta:
    """Return a duration typed as ``"180D"``, ``"12h"``, ``"2w"``, ``"30min"`` or ``"90s"``.

    Parameters
    ----------
    value : str or timedelta
        From zero to a century. Months and years are refused: they have no fixed length.

    Raises
    ------
    UsageError
        Where it is not such a duration; the message shows one that is.

    Examples
    --------
    >>> parse_duration("180D").days
    180
    """
    if isinstance(value, timedelta):
        duration = value
    else:
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            raise UsageError(f"{clean(value, 80)!r} is not a duration: write days as '180D' or hours as '12h'")
        seconds = int(match[1]) * _DURATION_UNITS[match[2][0].lower()]
        if seconds > LONGEST_DURATION.total_seconds():
            raise UsageError(f"{clean(value, 80)!r} is longer than a century: write at most '36525D'")
        duration = timedelta(seconds=seconds)
    if not timedelta(0) <= duration <= LONGEST_DURATION:
        raise UsageError(f"{duration} is not between zero and a century: write days as '180D'")
    return duration


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgtp]?)(i?b)?", re.IGNORECASE)


def parse_bytes(value: str) -> int:
    """Return a number of bytes typed as ``"10 MiB"``, ``"10M"`` (the same), ``"10 MB"`` (ten million) or ``"1500"``.

    Raises
    ------
    UsageError
        Where it is no size; the message shows one that is.

    Examples
    --------
    >>> parse_bytes("1.5 KiB"), parse_bytes("2k"), parse_bytes("2 kB"), parse_bytes("700")
    (1536, 2048, 2000, 700)
    """
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise UsageError(f"{clean(value, 80)!r} is not a size: write '10 MiB', '1.5G' or a number of bytes")
    decimal = (match[3] or "").lower() == "b"
    power = " kmgtp".index(match[2].lower() or " ")
    unit: int = (1000 if decimal else 1024) ** power
    return round(float(match[1]) * unit)


# What Go writes, and Python does not read.
_NANOSECONDS = re.compile(r"(\.\d{6})\d+")


def parse_time(text: object) -> datetime | None:
    """Return an RFC 3339 time as UTC with microseconds, or None where it is none."""
    if not isinstance(text, str) or not 10 <= len(text) <= 64:
        return None
    try:
        moment = datetime.fromisoformat(_NANOSECONDS.sub(r"\1", text))
    except ValueError:
        return None
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # a year-1 time with an offset lies before the calendar begins
        return None


def isoformat(moment: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the second: ``2026-01-31T09:30:00Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def slug(name: str) -> str:
    """Return a file name for a name from a registry: readable, and distinct for distinct names.

    The hash is long enough that nobody can make up two names that share a file.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "x"
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def owned_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder to write into and return it; a symbolic link in its place is refused."""
    folder = Path(path)
    if folder.is_symlink():
        raise UsageError(f"{clean(folder)} is a symbolic link: name the folder that it points to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{clean(folder)} is a file: name a folder") from None
    return folder


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under its name only when it was written whole.

    The old file stays intact until then. A symbolic link at `path` is replaced, never followed.
    """
    options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # Mode 0666 less the umask, as for any file that a user makes; tempfile's would be 0600.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def html_table(headings: list[str], rows: list[list[object]], render: Callable[[object], str] = escape) -> str:
    """Return a plain HTML table with every cell escaped."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{render(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def displayed(content: str) -> str:
    """Return HTML as the display of a value in a notebook: no dollar sign in it begins a formula.

    Jupyter typesets ``$…$`` in HTML with MathJax, which knows links; it leaves out what is of these classes
    (those of MathJax 2 and 3).
    """
    return f'<div class="tex2jax_ignore mathjax_ignore">{content}</div>'


def html_summary(lines: Mapping[str, object]) -> str:
    """Return a plain HTML table of texts by heading, everything escaped."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(heading)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for heading, text in lines.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"
