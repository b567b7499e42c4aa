"""What a label, a tag or an error message may hold, and how to tell whether a sink lets it act."""

from __future__ import annotations

import csv
import html.parser
import io
import unicodedata

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "</style><b>",
    "\"' onmouseover='alert(1)",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe srcdoc='<script>'>",
    "&lt;script&gt;",
    "$\\href{javascript:alert(1)}{x}$",
    "[x](javascript:alert(1))",
    "![x](http://evil.com/x.png)",
    "\x1b[2J\x1b[31mred",
    "\x1b]8;;http://evil.com\x07link\x1b]8;;\x07",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x9b31m",
    "\u202egpj.exe",
    "\u2066user\u2069",
    "zero\u200bwidth",
    "\ufeffbom",
    "line\nbreak\rreturn",
    "line\u2028separator",
    "nul\0byte",
    "\udcff",
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\0=1+1",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://evil.com";"x")',
    "=DDE(1)",
    "\uff1d1+1",
    "\uff0b1+1",
    "\uff0d1+1",
    "\uff20SUM(1)",
    "'=already",
    '"quoted","cells"',
    "semi;=1+1",
]

# What a display of ours is made of. No link, no picture, no script, no handler.
_ELEMENTS = {
    "div",
    "p",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "li",
    "br",
    "code",
    "strong",
    "details",
    "summary",
}
_ATTRIBUTES = {"class", "scope", "style", "border"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKS = set("\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.first: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.first is None:
            self.first = dict(attrs)
        if tag not in _ELEMENTS:
            self.found.append(f"<{tag}>")
        self.found += [f"{name}={value}" for name, value in attrs if name not in _ATTRIBUTES]

    def handle_comment(self, data: str) -> None:
        self.found.append(f"<!--{data}")


def active_in_html(page: str) -> list[str]:
    """Return what a browser would act on in a display of ours, or a notebook typeset."""
    parser = _Page()
    parser.feed(page)
    parser.close()
    maths = "$" in page and "tex2jax_ignore" not in ((parser.first or {}).get("class") or "")
    return parser.found + (["a formula"] if maths else []) + active_in_text(page)


def active_in_text(text: str) -> list[str]:
    """Return what a terminal or an editor would act on: controls and marks of direction."""
    return [repr(c) for c in text if (unicodedata.category(c) in {"Cc", "Cs"} and c != "\n") or c in _MARKS]


def active_in_csv(text: str) -> list[str]:
    """Return the cells that a spreadsheet would calculate."""
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    active = [cell for cell in cells if cell.startswith(_FORMULA) and not _is_number(cell)]
    return active + [repr(c) for cell in cells for c in active_in_text(cell)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell != "+1"
