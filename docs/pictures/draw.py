"""Draw the pictures of docs/plots.md again, light and dark: ``python docs/pictures/draw.py [FOLDER]``.

The registry is made up, so that the same pictures come out everywhere: a company with shared base images, three
years of releases, and names as long as they get.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "tests"))

from builders import Build, days_before  # noqa: E402 -- found only now
from matplotlib import style  # noqa: E402 -- after the folders that are looked in
from PIL import Image  # noqa: E402 -- comes with matplotlib

import regaudit as ra  # noqa: E402 -- likewise

MIB = 1 << 20
THEMES = {"": "default", "-dark": "dark_background"}
# Each repository, its base, how many releases, days between them, and MiB of its own in each.
REPOSITORIES = (
    ("shop/checkout/api", "python", 36, 21, 62),
    ("shop/checkout/worker", "python", 30, 24, 48),
    ("shop/storefront", "node", 44, 16, 85),
    ("payments/ledger-service-with-a-rather-long-name/backend", "java", 28, 30, 120),
    ("payments/gateway", "java", 22, 35, 94),
    ("data/etl/nightly", "python", 60, 9, 30),
    ("data/warehouse/exporter", "java", 14, 60, 140),
    ("ml/recommender/training-image-with-cuda-and-everything", "cuda", 9, 90, 900),
    ("ml/recommender/serving", "cuda", 12, 50, 210),
    ("web/frontend", "node", 50, 12, 22),
    ("web/admin", "node", 18, 40, 26),
    ("legacy/billing", "debian", 12, 30, 310),
    ("tools/ci/builder", "debian", 10, 75, 420),
    ("platform/base/python", "python", 8, 120, 4),
    ("platform/base/node", "node", 8, 120, 4),
    ("platform/base/java", "java", 6, 150, 4),
)
BASES = {"python": 132, "node": 178, "java": 246, "cuda": 2900, "debian": 118}


def company(days: float = 0) -> Any:
    """Return the made-up registry as it stood so many days ago."""
    build = Build("registry.example.com")
    for repository, base, releases, step, own in REPOSITORIES:
        chance = random.Random(repository)  # noqa: S311 -- the same pictures each time
        age = 700 if repository.startswith("legacy/") else chance.uniform(2, 20)
        for number in range(releases, 0, -1):
            age += step * chance.uniform(0.6, 1.4)
            size = int(own * MIB * chance.uniform(0.7, 1.3))
            if age < days:
                continue
            version = f"{1 + number // 12}.{number % 12}.0"
            tags = [version, "latest", "stable"] if number == releases else [version]
            layers = {"debian": 118 * MIB, base: BASES[base] * MIB, f"{base} {age // 200:.0f}": 20 * MIB}
            layers |= {f"{repository} {number}": size, f"{repository} libraries {number // 6}": own * MIB // 3}
            pushed = days_before(max(age - chance.uniform(0.2, 16), 0))
            build.image(repository, tags=tags, created=days_before(age), pushed=pushed, layers=layers)
    build.image("web/frontend", tags=["pr-981", "pr-977"], layers={"node": 178 * MIB, "pr": 31 * MIB})
    return build.snapshot()


def pictures() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each picture and what draws it."""
    snapshot = company()
    weeks = [company(days=7 * week) for week in range(0, 52, 4)]
    for week, reading in zip(range(0, 52, 4), weeks, strict=True):
        object.__setattr__(reading, "taken_at", reading.taken_at - timedelta(days=7 * week))
    candidates = ra.stale_tags(snapshot, older_than="180D", keep_latest=5)
    plan = ra.plan(snapshot, candidates, protect=["latest"])
    yield "storage", lambda: ra.plot_storage(snapshot)
    yield "treemap", lambda: ra.plot_treemap(snapshot)
    yield "sharing", lambda: ra.plot_sharing(snapshot, top=9)
    yield "layers", lambda: ra.plot_layers(snapshot, top=12)
    yield "ages", lambda: ra.plot_ages(snapshot, older_than="180D")
    yield "growth", lambda: ra.plot_growth(snapshot)
    yield "readings", lambda: ra.plot_growth(weeks)
    yield "timeline", lambda: ra.plot_timeline(snapshot, "shop/checkout/api", older_than="180D", top=20)
    yield "plan", lambda: ra.plot_plan(plan)


def small(ax: Any) -> Image.Image:
    """Return a picture of few colours, which a plot has: a third of the bytes."""
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB").quantize(96, dither=Image.Dither.NONE)


def main(folder: Path) -> None:
    """Draw every picture in both themes into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures():
        for suffix, theme in THEMES.items():
            with style.context(theme):
                path = folder / f"plot-{name}{suffix}.png"
                small(draw()).save(path, optimize=True)
                print(f"{path.stat().st_size / 1000:6.1f} kB  {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
