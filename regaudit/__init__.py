"""See, decide and delete: an audit toolkit for container registries.

The public names are loaded when they are first used, so that ``import regaudit`` is quick and a
script that only reads needs no widget and no plot.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from regaudit._version import __version__

if TYPE_CHECKING:
    from regaudit.analysis.findings import broken_tags as broken_tags
    from regaudit.analysis.findings import findings as findings
    from regaudit.analysis.findings import moved_tags as moved_tags
    from regaudit.analysis.findings import orphaned_signatures as orphaned_signatures
    from regaudit.analysis.footprint import footprint as footprint
    from regaudit.analysis.footprint import reclaimable_bytes as reclaimable_bytes
    from regaudit.analysis.in_use import InUse as InUse
    from regaudit.analysis.in_use import references_in_use as references_in_use
    from regaudit.analysis.labels import missing_labels as missing_labels
    from regaudit.analysis.largest import largest_images as largest_images
    from regaudit.analysis.largest import largest_layers as largest_layers
    from regaudit.analysis.plots import plot_layers as plot_layers
    from regaudit.analysis.plots import plot_sharing as plot_sharing
    from regaudit.analysis.plots import plot_storage as plot_storage
    from regaudit.analysis.plots import plot_treemap as plot_treemap
    from regaudit.analysis.plots_of_time import plot_ages as plot_ages
    from regaudit.analysis.plots_of_time import plot_growth as plot_growth
    from regaudit.analysis.plots_of_time import plot_timeline as plot_timeline
    from regaudit.analysis.policy import Expire as Expire
    from regaudit.analysis.policy import Keep as Keep
    from regaudit.analysis.policy import Policy as Policy
    from regaudit.analysis.policy import Section as Section
    from regaudit.analysis.policy import StandingApproval as StandingApproval
    from regaudit.analysis.report import report as report
    from regaudit.analysis.retention import Explanation as Explanation
    from regaudit.analysis.retention import Retention as Retention
    from regaudit.analysis.retention import expired_tags as expired_tags
    from regaudit.analysis.retention import explain as explain
    from regaudit.analysis.retention import retention as retention
    from regaudit.analysis.streams import naming_streams as naming_streams
    from regaudit.analysis.tags import duplicate_tags as duplicate_tags
    from regaudit.analysis.tags import stale_tags as stale_tags
    from regaudit.cleaner.cleaner import Cleaner as Cleaner
    from regaudit.cleaner.freed import Freed as Freed
    from regaudit.cleaner.journal import Journal as Journal
    from regaudit.cleaner.outcomes import Outcome as Outcome
    from regaudit.cleaner.outcomes import Run as Run
    from regaudit.cleaner.picture import plot_plan as plot_plan
    from regaudit.cleaner.plan import Approval as Approval
    from regaudit.cleaner.plan import Plan as Plan
    from regaudit.cleaner.plan import plan as plan
    from regaudit.cleaner.plan_difference import PlanDifference as PlanDifference
    from regaudit.cleaner.rows import PlanRow as PlanRow
    from regaudit.client.login import Login as Login
    from regaudit.client.registry import Registry as Registry
    from regaudit.client.repository import BlobUpload as BlobUpload
    from regaudit.client.repository import Repository as Repository
    from regaudit.errors import RegauditError as RegauditError
    from regaudit.inventory.blob_check import missing_blobs as missing_blobs
    from regaudit.inventory.cache import Cache as Cache
    from regaudit.inventory.collect import collect as collect
    from regaudit.inventory.difference import Difference as Difference
    from regaudit.inventory.estimate import Estimate as Estimate
    from regaudit.inventory.image import ImageDetails as ImageDetails
    from regaudit.inventory.progress import Progress as Progress
    from regaudit.inventory.snapshot import Snapshot as Snapshot
    from regaudit.log import show_log as show_log
    from regaudit.manifest import Descriptor as Descriptor
    from regaudit.manifest import ImageConfig as ImageConfig
    from regaudit.manifest import Index as Index
    from regaudit.manifest import Manifest as Manifest
    from regaudit.manifest import digest_of_document as digest_of_document
    from regaudit.manifest import parse_manifest as parse_manifest
    from regaudit.notebook.form import ReviewForm as ReviewForm
    from regaudit.notebook.form import review as review
    from regaudit.notebook.login import login as login
    from regaudit.reference import Digest as Digest
    from regaudit.reference import Platform as Platform
    from regaudit.reference import Reference as Reference
    from regaudit.reference import parse_index as parse_index
    from regaudit.reference import parse_reference as parse_reference
    from regaudit.reference import parse_registry as parse_registry
    from regaudit.reference import parse_repo as parse_repo
    from regaudit.reference import parse_repo_and_ref as parse_repo_and_ref
    from regaudit.reference import parse_repo_and_tag as parse_repo_and_tag
    from regaudit.schema1 import verify_signatures as verify_signatures

_HOMES = {
    "regaudit.analysis.findings": ("broken_tags", "findings", "moved_tags", "orphaned_signatures"),
    "regaudit.analysis.footprint": ("footprint", "reclaimable_bytes"),
    "regaudit.analysis.in_use": ("InUse", "references_in_use"),
    "regaudit.analysis.labels": ("missing_labels",),
    "regaudit.analysis.largest": ("largest_images", "largest_layers"),
    "regaudit.analysis.plots": ("plot_layers", "plot_sharing", "plot_storage", "plot_treemap"),
    "regaudit.analysis.plots_of_time": ("plot_ages", "plot_growth", "plot_timeline"),
    "regaudit.analysis.policy": ("Expire", "Keep", "Policy", "Section", "StandingApproval"),
    "regaudit.analysis.report": ("report",),
    "regaudit.analysis.retention": ("Explanation", "Retention", "expired_tags", "explain", "retention"),
    "regaudit.analysis.streams": ("naming_streams",),
    "regaudit.analysis.tags": ("duplicate_tags", "stale_tags"),
    "regaudit.cleaner.cleaner": ("Cleaner",),
    "regaudit.cleaner.freed": ("Freed",),
    "regaudit.cleaner.journal": ("Journal",),
    "regaudit.cleaner.outcomes": ("Outcome", "Run"),
    "regaudit.cleaner.picture": ("plot_plan",),
    "regaudit.cleaner.plan": ("Approval", "Plan", "plan"),
    "regaudit.cleaner.plan_difference": ("PlanDifference",),
    "regaudit.cleaner.rows": ("PlanRow",),
    "regaudit.client.login": ("Login",),
    "regaudit.client.registry": ("Registry",),
    "regaudit.client.repository": ("BlobUpload", "Repository"),
    "regaudit.errors": ("RegauditError",),
    "regaudit.inventory.blob_check": ("missing_blobs",),
    "regaudit.inventory.cache": ("Cache",),
    "regaudit.inventory.collect": ("collect",),
    "regaudit.inventory.difference": ("Difference",),
    "regaudit.inventory.estimate": ("Estimate",),
    "regaudit.inventory.image": ("ImageDetails",),
    "regaudit.inventory.progress": ("Progress",),
    "regaudit.inventory.snapshot": ("Snapshot",),
    "regaudit.log": ("show_log",),
    "regaudit.manifest": ("Descriptor", "ImageConfig", "Index", "Manifest", "digest_of_document", "parse_manifest"),
    "regaudit.notebook.form": ("ReviewForm", "review"),
    "regaudit.notebook.login": ("login",),
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


def load_ipython_extension(shell: Any) -> None:
    """Add ``%regaudit`` to a notebook: ``%load_ext regaudit`` calls this."""
    importlib.import_module("regaudit.notebook.magic").load_ipython_extension(shell)
