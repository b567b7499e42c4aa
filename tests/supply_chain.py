"""What regaudit stands on: is any of it known to be vulnerable, and a bill of materials. Both without a network.

As a program::

    python tests/supply_chain.py check
    python tests/supply_chain.py sbom > regaudit.cdx.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
# By package: what is known, and the first version without it.
ADVISORIES: dict[str, dict[str, str]] = json.loads((ROOT / "tests/data/advisories.json").read_text())["packages"]
EXTRAS = ("sandbox", "schema1", "fast", "notebook")


def below(versions: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence for each version that is known to be vulnerable."""
    return [
        f"{name} {version}: {known}, gone in {fixed}"
        for name, version in versions
        for known, fixed in ADVISORIES.get(canonicalize_name(name), {}).items()
        if Version(version) < Version(fixed)
    ]


def floors(requirements: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the lowest version that each requirement allows."""
    for requirement in map(Requirement, requirements):
        lowest = [part.version for part in requirement.specifier if part.operator in {">=", "==", "~="}]
        if lowest:
            yield requirement.name, min(lowest, key=Version)


def installed(name: str = "regaudit", extras: Iterable[str] = EXTRAS) -> dict[str, Distribution]:
    """Return what is installed of a package and of all that it needs, by name."""
    found: dict[str, Distribution] = {}
    left = [(name, frozenset(extras))]
    while left:
        wanted, chosen = left.pop()
        try:
            here = distribution(wanted)
        except PackageNotFoundError:
            continue  # for another system, or of an extra that is not installed
        seen = canonicalize_name(wanted) in found
        found[canonicalize_name(wanted)] = here
        for requirement in map(Requirement, here.requires or ()):
            applies = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (*chosen, "")
            )
            if applies and not seen:
                left.append((requirement.name, frozenset(requirement.extras)))
    return found


def bill() -> dict[str, Any]:
    """Return a bill of materials as CycloneDX 1.5 writes it."""
    found = installed()
    main = found.pop("regaudit")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": _component("regaudit", main, "application")},
        "components": [_component(name, found[name], "library") for name in sorted(found)],
    }


def _component(name: str, of: Distribution, kind: str) -> dict[str, Any]:
    version = of.version
    component: dict[str, Any] = {"type": kind, "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
    component["bom-ref"] = component["purl"]
    licence = of.metadata.get("License-Expression") or of.metadata.get("License") or ""
    if licence and re.fullmatch(r"[\w.+ ()-]{1,80}", licence):
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def main() -> None:
    what = sys.argv[1:]
    if what == ["sbom"]:
        print(json.dumps(bill(), indent=2))
    elif what == ["check"]:
        found = installed()
        vulnerable = below((name, of.version) for name, of in found.items())
        print("\n".join(vulnerable) or f"{len(found)} packages, none of a version that is known to be vulnerable")
        sys.exit(bool(vulnerable))
    else:
        sys.exit("write: python tests/supply_chain.py check, or sbom")


if __name__ == "__main__":
    main()
