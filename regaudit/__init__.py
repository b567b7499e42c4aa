"""See, decide and delete: an audit toolkit for container registries.

The public names are loaded when they are first used, so that ``import regaudit`` is quick and a
script that only reads needs no widget and no plot.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from regaudit._version import __version__

if TYPE_CHECKING:
    from regaudit.analysis.footprint import footprint, reclaimable_bytes
    from regaudit.analysis.plots import plot_ages, plot_sharing, plot_storage
    from regaudit.analysis.report import report
    from regaudit.analysis.tags import duplicate_tags, stale_tags
    from regaudit.cleaner.cleaner import Cleaner
    from regaudit.cleaner.journal import Journal
    from regaudit.cleaner.outcomes import Outcome, Run
    from regaudit.cleaner.plan import Approval, Plan, plan
    from regaudit.cleaner.rows import PlanRow
    from regaudit.client.login import Login
    from regaudit.client.registry import Registry
    from regaudit.client.repository import BlobUpload, Repository
    from regaudit.errors import RegauditError
    from regaudit.inventory.collect import Progress, collect
    from regaudit.inventory.snapshot import Snapshot
    from regaudit.log import show_log
    from regaudit.manifest import Descriptor, ImageConfig, Index, Manifest, digest_of_document, parse_manifest
    from regaudit.notebook.form import ReviewForm, review
    from regaudit.reference import (
        Digest,
        Platform,
        Reference,
        parse_index,
        parse_reference,
        parse_registry,
        parse_repo,
        parse_repo_and_ref,
        parse_repo_and_tag,
    )
    from regaudit.schema1 import verify_signatures

_HOMES = {
    "regaudit.analysis.footprint": ("footprint", "reclaimable_bytes"),
    "regaudit.analysis.plots": ("plot_ages", "plot_sharing", "plot_storage"),
    "regaudit.analysis.report": ("report",),
    "regaudit.analysis.tags": ("duplicate_tags", "stale_tags"),
    "regaudit.cleaner.cleaner": ("Cleaner",),
    "regaudit.cleaner.journal": ("Journal",),
    "regaudit.cleaner.outcomes": ("Outcome", "Run"),
    "regaudit.cleaner.plan": ("Approval", "Plan", "plan"),
    "regaudit.cleaner.rows": ("PlanRow",),
    "regaudit.client.login": ("Login",),
    "regaudit.client.registry": ("Registry",),
    "regaudit.client.repository": ("BlobUpload", "Repository"),
    "regaudit.errors": ("RegauditError",),
    "regaudit.inventory.collect": ("Progress", "collect"),
    "regaudit.inventory.snapshot": ("Snapshot",),
    "regaudit.log": ("show_log",),
    "regaudit.manifest": ("Descriptor", "ImageConfig", "Index", "Manifest", "digest_of_document", "parse_manifest"),
    "regaudit.notebook.form": ("ReviewForm", "review"),
    "regaudit.reference": (
        "Digest",
        "Platform",
        "Reference",
        "parse_index",
        "parse_reference",
        "parse_registry",
        "parse_repo",
        "parse_repo_and_ref",
        "parse_repo_and_tag",
    ),
    "regaudit.schema1": ("verify_signatures",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604 -- computed from _HOMES, which a test compares with the imports above
    "__version__",
    *sorted(_HOME_OF),
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'regaudit' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
