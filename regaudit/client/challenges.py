"""What a registry demands when it answers 401: the grammar of WWW-Authenticate (RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# White space is bounded: a pattern that may begin and end with any amount of it takes quadratic time.
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s{0,8}=\s{0,8}(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)(?=\s|$|,)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_LONGEST_CHALLENGE = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One demand in a WWW-Authenticate header: a scheme in lower case and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges in all WWW-Authenticate headers of a response, in order.

    Several may share one header, and commas may stand inside quotes. What cannot be parsed is passed
    over; of a parameter that comes twice the first counts.

    Examples
    --------
    >>> [c.scheme for c in parse_challenges(['Basic realm="a, b", Bearer realm="https://t/x",service="s"'])]
    ['basic', 'bearer']
    """
    return [challenge for value in values for challenge in _challenges(value[:_LONGEST_CHALLENGE])]


def _challenges(value: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            found[-1][1].setdefault(name.lower(), plain if quoted is None else _ESCAPED.sub(r"\1", quoted))
            position = parameter.end()
        elif scheme := _SCHEME.match(value, position):
            found.append((scheme[1].lower(), {}))
            position = scheme.end()
        else:
            position += 1
    return [Challenge(scheme, parameters) for scheme, parameters in found]
