"""What a registry says of how many requests it still allows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regaudit.client.exchange import Headers


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many requests a registry still allows, as it last said.

    Attributes
    ----------
    limit : int or None
        How many in a window.
    remaining : int
        How many are left of them.
    reset_seconds : float or None
        After how many seconds there are more.
    window_seconds : float or None
        How long a window is.
    """

    limit: int | None
    remaining: int
    reset_seconds: float | None = None
    window_seconds: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields as plain values."""
        return asdict(self)


def rate_limit(headers: Headers) -> RateLimit | None:
    """Return what the RateLimit fields say, None where they say nothing.

    Known are three fields of their own, with the window as a parameter as Docker Hub writes it
    (``ratelimit-limit: 100;w=21600``), and the structured ones (draft-ietf-httpapi-ratelimit-headers), of
    whose policies the one with the least left counts.
    """
    policies = _rate_items(headers.all("ratelimit-policy"))
    state = min(_rate_items(headers.all("ratelimit")), key=lambda item: item[1].get("r", math.inf), default=None)
    if state is not None and "r" in state[1]:
        policy = dict(policies).get(state[0], {})
        window = policy.get("w")
        return RateLimit(_whole(policy.get("q")), int(state[1]["r"]), state[1].get("t"), window)
    remaining, left = _rate_number(headers.get("ratelimit-remaining", ""))
    if remaining is None:
        return None
    limit, parameters = _rate_number(headers.get("ratelimit-limit", ""))
    reset, _ = _rate_number(headers.get("ratelimit-reset", ""))
    return RateLimit(_whole(limit), int(remaining), reset, parameters.get("w", left.get("w")))


def _rate_items(values: list[str]) -> list[tuple[str, dict[str, float]]]:
    """Return the items of a list with their numeric parameters: ``"default";r=50;t=30``."""
    items = [item for value in values for item in value.split(",")]
    return [(item.partition(";")[0].strip().strip('"'), _parameters(item)) for item in items]


def _rate_number(text: str) -> tuple[float | None, dict[str, float]]:
    """Return the number that a field begins with, and its numeric parameters; of a list, the first of each."""
    first = text.split(",", maxsplit=1)[0]
    number = first.partition(";")[0].strip()
    return (float(number[:12]) if number.isascii() and number.isdigit() else None), _parameters(first)


def _parameters(item: str) -> dict[str, float]:
    pairs = (part.strip().partition("=") for part in item.split(";")[1:])
    return {name: float(text[:12]) for name, _, text in pairs if text.isascii() and text.isdigit()}


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
