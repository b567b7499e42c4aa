"""Unattended runs: from a registry and a policy to a deletion that nobody watches, and a report of it.

Read, judge, plan, approve in advance, delete, look again, report: the same steps as by hand, by the same code. What a
run adds is that it decides nothing by itself: a plan that the policy's standing approval does not cover is
written and waits for somebody.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from regaudit.analysis.findings import broken_tags
from regaudit.analysis.policy import Policy
from regaudit.analysis.retention import Retention, retention
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import GONE, Report, Run
from regaudit.cleaner.plan import Plan, plan
from regaudit.cleaner.rows import DELETE_MANIFEST, PUT_INDEX
from regaudit.cleaner.unfinished import settle_cut_off
from regaudit.client.registry import Registry
from regaudit.errors import JournalBusy, PlanError, RegauditError, UsageError
from regaudit.inventory.collect import collect
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import compile_pattern, is_literal
from regaudit.text import clean as cleaned
from regaudit.text import owned_folder, redact
from regaudit.unattended.record import CleanReport, Verification
from regaudit.unattended.repository_list import load_repositories
from regaudit.unattended.standing import approve_in_advance
from regaudit.unattended.stopping import Stopping

logger = logging.getLogger("regaudit.cleaner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an unattended run is to do.

    Attributes
    ----------
    policy : Path
        Read at the beginning of each run, with the files that it names.
    repositories : Path or None
        A list of names and patterns; otherwise those that the policy's sections name.
    dry_run : bool
        Send nothing but reads, and record nothing.
    folder : Path or None
        Where reports and plans go; unless given a folder beside the journal (of a dry run, nowhere).
    journal : Path or None
        The registry's own in the user's state folder unless given.
    cache : Path or bool or None
        As for `collect`.
    backup : Path or None
        Keep whole images there first, as `Cleaner.backup` does; what cannot be kept whole stays.
    strict : bool
        Call it not done where a limit of the policy held something back, or the plan refused or skipped anything.
    """

    policy: Path
    repositories: Path | None = None
    dry_run: bool = False
    folder: Path | None = None
    journal: Path | None = None
    cache: Path | bool | None = True
    backup: Path | None = None
    strict: bool = False

    def journal_path(self, registry: Registry) -> Path:
        """Return where the record of a registry is."""
        return self.journal or Journal.default_path(registry.host)

    def report_folder(self, registry: Registry) -> Path | None:
        """Return where reports and plans go, None for nowhere."""
        if self.folder is None and self.dry_run:
            return None
        return self.folder or self.journal_path(registry).parent / "clean"


def clean(
    registry: Registry, job: Job, *, progress: Report | None = None, stopping: Stopping | None = None
) -> CleanReport:
    """Clean a registry by a policy, once, and return the report, which is on the disk by then.

    Whatever goes wrong is in the report: what happened is for whoever reads it, and a schedule goes on.

    Parameters
    ----------
    registry : Registry
    job : Job
    progress : callable, optional
        Is given each `Outcome` as it comes.
    stopping : Stopping, optional
        What ends the run early; a deletion that is under way comes to its end.
    """
    report = CleanReport(registry=registry.host, dry_run=job.dry_run)
    cleaning = _Cleaning(registry, job, report, progress, stopping)
    try:
        cleaning.run()
    except KeyboardInterrupt:
        when = "before anything was deleted" if report.run is None else f"after {report.run}"
        report.end("stopped", f"it was stopped {when}: the next run decides anew")
    except JournalBusy as error:
        report.end("busy", str(error))
    except UsageError as error:
        report.end("usage", str(error))
    except (RegauditError, OSError) as error:
        report.end("failed", redact(error, 1000))
    except Exception as error:
        logger.exception("a run ended in an error that regaudit did not expect")
        report.end("failed", f"{type(error).__name__}, which regaudit did not expect: please report it with the log")
    with nullcontext() if stopping is None else stopping.gentle():
        report.finish(job.report_folder(registry))
    return report


@dataclass(slots=True)
class _Cleaning:
    """One run, step by step; what it finds is in the report at once."""

    registry: Registry
    job: Job
    report: CleanReport
    progress: Report | None
    stopping: Stopping | None
    policy: Policy = field(init=False)

    def run(self) -> None:
        self.policy = Policy.load(self.job.policy)
        self.report.policy = {
            "file": str(self.job.policy),
            "hash": self.policy.hash,
            "approval": None if self.policy.approval is None else self.policy.approval.to_dict(),
        }
        patterns = self._patterns()
        if self.job.dry_run:
            snapshot, made = self._decide(patterns)
            self.report.sends = [_request(row.repository, row.action, row.tags, row.digest) for row in made.rows]
            self._forecast(made)
            self._conclude(snapshot, "dry_run")
            return
        with Journal(self.job.journal_path(self.registry)) as journal, journal.reserved():
            self.report.cut_off = [str(found) for found in settle_cut_off(self.registry, journal)]
            snapshot, made = self._decide(patterns)
            if made.rows:
                self._delete(snapshot, made, journal)
            self._conclude(snapshot, "done" if made.rows else "nothing_to_do")

    # -- what is read, and decided ------------------------------------------------------------

    def _patterns(self) -> tuple[str, ...]:
        """Return which repositories are read: those on the list, or those that the policy is about."""
        if self.job.repositories is not None:
            return load_repositories(self.job.repositories)
        found = dict.fromkeys(pattern for section in self.policy.sections for pattern in section.repositories)
        if not found:
            raise UsageError(f"{cleaned(self.job.policy)} has no section, so that nothing can go: write [[sections]]")
        return tuple(found)

    def _decide(self, patterns: tuple[str, ...]) -> tuple[Snapshot, Plan]:
        snapshot = collect(self.registry, *patterns, progress=False, cache=self.job.cache)
        if self._asked_to_stop():
            raise KeyboardInterrupt  # collect took it for the end of its reading
        self.report.note_snapshot(snapshot, unknown=_unknown(snapshot, patterns))
        left_alone = [name for name in snapshot.repositories if self.policy.section(name) is None]
        if left_alone and self.job.repositories is not None:
            self.report.notes.append(f"no section of the policy is about {_some(left_alone)}: left alone")
        judged: Retention = retention(snapshot, self.policy)
        self.report.note_retention(judged)
        made = plan(snapshot, judged.expired, untag=self.policy.untag)
        self.report.note_plan(made)
        folder = self.job.report_folder(self.registry)
        if made.rows and folder is not None:
            self.report.plan_file = str(made.save(owned_folder(folder) / f"plan-{made.hash[:12]}.json"))
        return snapshot, made

    def _forecast(self, made: Plan) -> None:
        """Note whether the plan of a dry run would have been approved."""
        if not made.rows:
            return
        try:
            self.report.approval = _plain(approve_in_advance(made, self.policy))
        except PlanError as error:
            self.report.notes.append(f"a run would wait for somebody's approval: {error}")

    # -- what is done, and seen afterwards ----------------------------------------------------

    def _delete(self, snapshot: Snapshot, made: Plan, journal: Journal) -> None:
        try:
            approved = approve_in_advance(made, self.policy)
        except PlanError as error:
            self.report.end("needs_approval", f"{error}. Nothing was deleted. {self._how_to_approve()}")
            return
        self.report.approval = _plain(approved)
        approved.save(str(self.report.plan_file))
        event = None if self.stopping is None else self.stopping.event
        with nullcontext() if self.stopping is None else self.stopping.gentle():
            run = Cleaner(self.registry, journal=journal).execute(
                approved, progress=self.progress, stop=event, backup=self.job.backup
            )
        self.report.note_run(run, made)
        if self._asked_to_stop():
            raise KeyboardInterrupt
        self.report.verification = self._verify(snapshot, run)
        if self._asked_to_stop():
            raise KeyboardInterrupt
        if not run.ok:
            self.report.end(
                "not_deleted", f"not everything came to what was asked ({run}): the outcomes say what and why"
            )
        elif not self.report.verification.ok:
            self.report.end("not_deleted", f"what was to stay is not as it was: {self.report.verification}")

    def _how_to_approve(self) -> str:
        file = shlex.quote(str(self.report.plan_file))
        record = "" if self.job.journal is None else f" --journal {shlex.quote(str(self.job.journal))}"
        return f"Read {file}, then: regaudit approve {file} --by NAME && regaudit apply {file}{record}"

    def _verify(self, before: Snapshot, run: Run) -> Verification:
        """Read again what was touched, without the cache, and compare: nothing else may be gone, and nothing broken."""
        touched = sorted({outcome.repository for outcome in run.outcomes})
        after = collect(self.registry, *touched, progress=False, cache=None, referrers=False, documents=False)
        was, now = _tags(before, touched), _tags(after, touched)
        meant = {(o.repository, tag): o.digest for o in run.outcomes if o.outcome in GONE for tag in o.tags}
        unread = _unread(after)
        read = set(touched) - unread
        return Verification(
            unread=tuple(sorted(unread)),
            missing=tuple(_name(key) for key in sorted(was.keys() - now.keys() - meant.keys()) if key[0] in read),
            still_there=tuple(_name(key) for key in sorted(meant) if key in now and now[key] == meant[key]),
            broken=tuple(sorted(_broken(after, touched) - _broken(before, touched))),
        )

    def _asked_to_stop(self) -> bool:
        return self.stopping is not None and self.stopping.asked

    def _conclude(self, snapshot: Snapshot, word: str) -> None:
        if self.report.status:
            return
        if not snapshot.complete:
            named = _some(sorted(snapshot.unread)) if snapshot.unread else "the list of repositories"
            self.report.end("incomplete", f"not everything was read, and nothing goes there: {named}")
        elif self.report.unmatched:
            self.report.end("incomplete", f"no repository is called {_some(self.report.unmatched)}")
        elif self.job.strict and (lacking := self.report.lacking()):
            self.report.end("held_back", f"{lacking}, and --strict was given")
        else:
            self.report.end(word, "")


def _request(repository: str, action: str, tags: tuple[str, ...], digest: str | None) -> str:
    """Return the request that a row of a plan stands for."""
    method = "PUT" if action == PUT_INDEX else "DELETE"
    reference = digest if action == DELETE_MANIFEST else tags[0]
    return f"{method} /v2/{repository}/manifests/{reference}"


def _unknown(snapshot: Snapshot, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the names that the registry does not know, and the patterns that nothing matches."""
    problems = snapshot.problems
    absent = set(problems.loc[(problems["stage"] == "tags") & (problems["error"] == "not_found"), "repository"])
    if (problems["stage"] == "catalog").any():
        patterns = [pattern for pattern in patterns if is_literal(pattern)]
    return tuple(
        pattern
        for pattern in patterns
        if pattern in absent
        or not (is_literal(pattern) or any(map(compile_pattern(pattern).fullmatch, snapshot.repositories)))
    )


def _tags(snapshot: Snapshot, repositories: list[str]) -> dict[tuple[str, str], str | None]:
    tags = snapshot.tags[snapshot.tags["repository"].isin(repositories)]
    digests = tags["digest"].astype("object").where(tags["digest"].notna(), None)
    return dict(zip(zip(tags["repository"].astype(str), tags["tag"].astype(str), strict=True), digests, strict=True))


def _unread(snapshot: Snapshot) -> set[str]:
    """Return the repositories of which something was not read, referrers aside, for which it did not ask."""
    asked = snapshot.problems[snapshot.problems["stage"] != "referrers"]
    return set(asked.loc[asked["blocking"].fillna(value=True), "repository"].dropna().astype(str))


def _broken(snapshot: Snapshot, repositories: list[str]) -> set[str]:
    found = broken_tags(snapshot)
    found = found[found["repository"].isin(repositories)]
    return {_name(key) for key in zip(found["repository"].astype(str), found["tag"].astype(str), strict=True)}


def _name(key: tuple[str, str]) -> str:
    return cleaned(":".join(key), 400)


def _some(names: Iterable[str]) -> str:
    shown = [cleaned(name, 255) for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5:,} more" if len(shown) > 5 else "")


def _plain(approved: Plan) -> dict[str, str] | None:
    return None if approved.approval is None else approved.approval.to_dict()


__all__ = ["Job", "clean"]
