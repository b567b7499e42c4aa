"""The command line: the same way as in a notebook, with exit statuses that a script can rely on."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from regaudit.cleaner.plan import Plan
from regaudit.cli import main
from regaudit.cli.front import SECTIONS
from regaudit.client.registry import Registry
from regaudit.inventory.snapshot import FORMAT
from regaudit.inventory.tables import TABLES, columns_of
from regaudit.sandbox.server import Sandbox

RULE = ["--older-than", "180D", "--keep-latest", "5"]


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Run a command in a folder of its own; what it printed is in `output`, stderr alone in `stderr`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=None):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def served():
    with Sandbox(sample=True) as sandbox:
        yield sandbox


def contents(sandbox):
    return {name: dict(sandbox.store.tags(name)) for name in sandbox.store.repositories()}


def deletions(sandbox):
    return [path for method, path, _ in sandbox.requests if method == "DELETE"]


def approved_plan(shell, sandbox):
    assert shell("audit", sandbox.host, "--out", "audit", "-q").exit_code == 0
    assert shell("plan", "audit/snapshot", *RULE, "-o", "plan.json").exit_code == 0
    assert shell("approve", "plan.json", "--by", "Ada", "--reason", "full disk").exit_code == 0


def sentence(result, status):
    """Return the one sentence that a command ended in, having checked that it is one."""
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(("regaudit: ", "Error: "))
    return last


def test_the_demo_shows_deletes_restores_and_leaves_a_report_also_where_one_was_before(shell, tmp_path):
    result = shell("demo", "-q")
    assert result.exit_code == 0, result.output
    assert "Everything is back" in result.output
    assert "1 dangling" in result.output
    folder = tmp_path / "demo-report"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {f"{table}.csv" for table in TABLES} <= files
    assert {"stale.csv", "duplicates.csv", "index.html", "plan.json", "journal.sqlite"} <= files
    assert {path for path in files if path.endswith(".png")}
    assert shell("demo", "-q").exit_code == 0


def test_an_audit_writes_each_table_with_its_columns(shell, served, tmp_path):
    assert shell("audit", served.host, "--out", "audit", "-q").exit_code == 0
    for table in TABLES:
        with (tmp_path / "audit" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            assert next(csv.reader(file)) == columns_of(table)


def test_a_pattern_and_an_exclusion_choose_the_repositories(shell, served, tmp_path):
    result = shell("audit", f"{served.host}/shop/**", "--exclude", "**/worker", "--out", "audit", "-q")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "audit" / "snapshot" / "snapshot.json").read_text())["repositories"] == [
        "shop/checkout/api"
    ]


def test_what_was_applied_can_be_undone_by_the_name_of_its_run(shell, served):
    before = contents(served)
    approved_plan(shell, served)
    applied = shell("apply", "plan.json")
    assert applied.exit_code == 0, applied.output
    assert contents(served) != before
    undone = shell("undo", run_of(applied))
    assert undone.exit_code == 0, undone.output
    assert contents(served) == before


def test_the_journal_names_runs_and_approvals_and_verifies(shell, served):
    approved_plan(shell, served)
    shell("apply", "plan.json")
    shown = shell("journal", "show", served.host).output
    assert "approved by Ada" in shown
    assert "deleted" in shown
    assert shell("journal", "verify", served.host).exit_code == 0
    lines = [json.loads(line) for line in shell("journal", "export", served.host).output.splitlines()]
    assert [line["event"] for line in lines[:2]] == ["planned", "started"]
    assert lines[1]["data"]["approval"]["reason"] == "full disk"
    assert "(full disk)" in shown
    rows = shell("journal", "show", served.host, "--run", lines[0]["run"]).output
    assert "legacy/billing" in rows
    assert "outcome" in rows


def test_the_audit_trail_comes_as_csv_too_safe_in_a_spreadsheet(shell, served):
    approved_plan(shell, served)
    shell("approve", "plan.json", "--by", "=cmd()", "--reason", "full disk")
    shell("apply", "plan.json")
    text = shell("journal", "export", served.host, "--format", "csv").output
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["event"] for row in rows][:4] == ["planned", "started", "probed", "intent"]
    assert rows[1]["approved_by"] == "'=cmd()"
    gone = {(row["repository"], row["digest"]) for row in rows if row["outcome"] == "deleted"}
    assert ("legacy/billing", next(r["digest"] for r in rows if r["repository"] == "legacy/billing")) in gone
    count = len(shell("journal", "export", served.host, "--format", "jsonl").output.splitlines())
    assert len(rows) == count
    assert len({row["hash"] for row in rows}) == count


def test_one_tag_of_a_run_comes_back(shell, served):
    before = contents(served)
    approved_plan(shell, served)
    run = run_of(shell("apply", "plan.json"))
    undone = shell("undo", run, "--only", "legacy/billing:0.4.0")
    assert undone.exit_code == 0, undone.output
    assert contents(served)["legacy/billing"]["0.4.0"] == before["legacy/billing"]["0.4.0"]
    assert contents(served) != before
    assert "REPOSITORY:TAG" in sentence(shell("undo", run, "--only", "nosuch"), 2)


def run_of(applied):
    return next(line for line in applied.output.splitlines() if line.startswith("delete ")).split()[1].rstrip(":")


def test_apply_with_a_backup_and_restore_bring_everything_back_after_garbage_collection(shell, served):
    before = contents(served)
    approved_plan(shell, served)
    kept = shell("backup", "plan.json", "--to", "kept")
    assert kept.exit_code == 0, kept.output
    assert f"regaudit restore kept {served.host}" in kept.output
    assert contents(served) == before
    applied = shell("apply", "plan.json", "--backup", "kept")
    assert applied.exit_code == 0, applied.output
    assert "garbage" in applied.output
    served.store.collect_garbage()
    assert shell("undo", run_of(applied)).exit_code == 1
    restored = shell("restore", "kept", served.host)
    assert restored.exit_code == 0, restored.output
    assert contents(served) == before
    assert "from kept" in shell("journal", "show", served.host).output
    assert "it has" in sentence(shell("restore", "kept", served.host, "--only", "nosuch"), 2)


def test_applying_the_same_plan_again_deletes_nothing_more(shell, served):
    approved_plan(shell, served)
    shell("apply", "plan.json")
    sent = len(deletions(served))
    again = shell("apply", "plan.json")
    assert again.exit_code == 0
    assert "deleted_before" in again.output
    assert len(deletions(served)) == sent


def test_candidates_can_come_from_an_edited_csv(shell, served, tmp_path):
    shell("audit", served.host, "--out", "audit", "-q")
    (tmp_path / "mine.csv").write_text("repository,tag\nweb/frontend,nosuch\n")
    result = shell("plan", "audit/snapshot", "--candidates", "mine.csv", "-o", "plan.json")
    assert result.exit_code == 0
    assert "not_in_snapshot" in result.output
    assert shell("plan", "audit/snapshot", "--candidates", "mine.csv", "-o", "p", "--strict").exit_code == 1


def policy(name="first"):
    return Path(__file__).parent.parent / "examples" / "policies" / f"{name}.toml"


def test_a_plan_comes_from_a_policy_with_what_it_holds_back_said(shell, served, tmp_path):
    shell("audit", served.host, "--out", "audit", "-q")
    made = shell("plan", "audit/snapshot", "--policy", policy(), "-o", "plan.json")
    assert made.exit_code == 0, made.output
    assert "tags may go" in made.output
    planned = Plan.load(tmp_path / "plan.json")
    assert {tag.partition("-")[0] for row in planned.rows for tag in row.tags} == {"pr"}
    assert planned.approval is None
    fewer = shell("plan", "audit/snapshot", "--policy", policy(), "--protect", "pr-1*", "-o", "fewer.json")
    assert fewer.exit_code == 0
    assert 0 < Plan.load(tmp_path / "fewer.json").digests < planned.digests


@pytest.mark.parametrize(
    "more",
    [
        ["--older-than", "9D"],
        ["--keep-latest", "5"],
        ["--match", "x"],
        ["--clock", "created"],
        ["--candidates", "x.csv"],
    ],
)
def test_a_policy_and_another_rule_contradict_each_other(shell, more):
    said = sentence(shell("plan", "nosuch", "--policy", policy(), *more, "-o", "plan.json"), 2)
    assert f"--policy says what may go, and so does {more[0]}" in said


def test_what_a_policy_lets_go_is_listed_or_written(shell, served, tmp_path):
    shell("audit", served.host, "--out", "audit", "-q")
    listed = shell("expired", "audit/snapshot", "--policy", policy("services"))
    assert listed.exit_code == 0
    assert "pull requests" in listed.output
    held = shell("expired", "audit/snapshot", "--policy", policy("tag-cleaner"), "--held")
    assert "alias" in held.output
    assert shell("expired", "audit/snapshot", "--policy", policy("services"), "--out", "found").exit_code == 0
    with (tmp_path / "found" / "expired.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"{len(rows):,} tags may go" in listed.output
    assert (tmp_path / "found" / "held.csv").stat().st_size > 0


def test_a_policy_is_explained_for_any_tag(shell, served):
    shell("audit", served.host, "--out", "audit", "-q")
    line = ["explain", "audit/snapshot", "--policy", policy()]
    assert "shop/checkout/api:pr-101 may go" in shell(*line, "shop/checkout/api:pr-101").output
    found = json.loads(shell(*line, "shop/checkout/api:latest", "--json").output)
    assert (found["verdict"], found["section"]) == ("kept", "everything")
    assert "did you mean 'pr-1" in sentence(shell(*line, "shop/checkout/api:pr-1O1"), 2)


@pytest.mark.parametrize("command", ["stale", "duplicates"])
def test_findings_are_listed_or_written(shell, served, command, tmp_path):
    shell("audit", served.host, "--out", "audit", "-q")
    rule = RULE if command == "stale" else []
    listed = shell(command, "audit/snapshot", *rule)
    assert listed.exit_code == 0
    assert " tags\n" in listed.output
    assert shell(command, "audit/snapshot", *rule, "--out", "found").exit_code == 0
    assert (tmp_path / "found" / f"{command}.csv").stat().st_size > 0


def test_a_report_is_written_and_named(shell, served, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "regaudit.analysis.report._plots", lambda _older_than: {}
    )  # most of the time, and in the demo too
    shell("audit", served.host, "--out", "audit", "-q")
    assert "report/index.html" in shell("report", "audit/snapshot").output
    assert (tmp_path / "report" / "index.html").is_file()


def test_a_report_takes_the_rules_of_stale_tags_and_the_labels_of_findings(shell, served, tmp_path, monkeypatch):
    monkeypatch.setattr("regaudit.analysis.report._plots", lambda _older_than: {})
    shell("audit", served.host, "--out", "audit", "-q")
    rule = ["--keep-latest", "3", "--protect", "v*"]
    shell("stale", "audit/snapshot", *rule, "--out", "found")
    done = shell("report", "audit/snapshot", *rule, "--label", "org.team", "--no-xlsx", "--out", "r")
    assert done.exit_code == 0, done.output
    rows = {
        name: [row["tag"] for row in csv.DictReader((tmp_path / name / "stale.csv").read_text("utf-8").splitlines())]
        for name in ("r", "found")
    }
    assert rows["r"] == rows["found"] != []
    assert "should have: org.team." in (tmp_path / "r" / "index.html").read_text("utf-8")
    assert not (tmp_path / "r" / "report.xlsx").exists()
    assert "say what is stale" in sentence(shell("report", "audit/snapshot", "--protect", "v*"), 2)


def test_two_audits_are_compared_and_the_difference_written(shell, served, tmp_path):
    shell("audit", served.host, "--out", "before", "-q")
    with Registry(served.host) as registry:
        charts = registry.repository("charts/checkout")
        charts.delete_manifest(charts.manifest("0.8.0").digest)
    shell("audit", served.host, "--out", "after", "-q")
    shown = shell("diff", "before/snapshot", "after/snapshot")
    assert shown.exit_code == 0
    assert "1 gone" in shown.output
    assert "charts/checkout  0.8.0  gone" in shown.output
    assert shell("diff", "before/snapshot", "after/snapshot", "--out", "changes", "--strict").exit_code == 0
    assert {path.name for path in (tmp_path / "changes").iterdir()} == {
        "changed_tags.csv",
        "changed_manifests.csv",
        "growth.csv",
        "unread.csv",
    }
    assert "the earlier one first" in sentence(shell("diff", "after/snapshot", "before/snapshot"), 2)


def test_a_difference_in_which_something_is_unknown_is_a_failure_where_strict(shell, served):
    shell("audit", f"{served.host}/charts/*", "--out", "before", "-q")
    shell("audit", served.host, "--out", "after", "-q")
    assert shell("diff", "before/snapshot", "after/snapshot").exit_code == 0
    assert "not everything was read" in sentence(shell("diff", "before/snapshot", "after/snapshot", "--strict"), 1)


def test_every_finding_is_listed_or_written(shell, served, tmp_path):
    shell("audit", served.host, "--out", "audit", "-q")
    listed = shell("findings", "audit/snapshot", "--label", "org.example.team")
    assert listed.exit_code == 0
    assert "its manifest is gone" in listed.output
    assert "without org.example.team" in listed.output
    assert shell("findings", "audit/snapshot", "--out", "found").exit_code == 0
    names = "broken_tags largest_images largest_layers missing_labels naming_streams orphaned_signatures"
    assert sorted(path.stem for path in (tmp_path / "found").iterdir()) == names.split()


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["audit", "127.0.0.1:1", "--out", "o"], 1, "check the address"),
        (["audit", "127.0.0.1:1/UPPER", "--out", "o"], 2, "is not a pattern"),
        (["audit", "ftp://example.com", "--out", "o"], 2, "not http or https"),
        (["audit", "http://me:secret@example.com", "--out", "o"], 2, "without a user name"),
        (["audit", "a.example", "b.example", "--out", "o"], 2, "one registry at a time"),
        (["audit", "a.example"], 2, "--out"),
        (["audit", "a.example", "-u", "me", "--out", "o"], 2, "--password-stdin"),
        (["stale", "nosuch", "--older-than", "1D"], 1, "is not a snapshot"),
        (["apply", "nosuch.json"], 1, "is not a plan"),
        (["diff", __file__, "nosuch"], 2, "two files of plans"),
        (["undo", "nosuch"], 1, "no journal has the run"),
        (["journal", "show"], 2, "name the journal"),
        (["journal", "show", "example.com"], 1, "does not exist"),
        (["deflate"], 2, "No such command"),
    ],
)
def test_bad_input_ends_in_one_sentence_that_says_what_to_do(shell, arguments, status, says):
    assert says in sentence(shell(*arguments), status)


@pytest.mark.parametrize("rule", [[], ["--older-than", "6M"], ["--keep-latest", "-1"], ["--clock", "moon"]])
def test_a_rule_that_cannot_be_understood_is_a_usage_error(shell, served, rule):
    shell("audit", served.host, "--out", "audit", "-q")
    sentence(shell("plan", "audit/snapshot", *rule, "-o", "plan.json"), 2)


def test_a_repository_that_does_not_exist_is_said_and_nothing_is_written(shell, served, tmp_path):
    assert "nothing could be read" in sentence(shell("audit", f"{served.host}/no/such", "--out", "audit", "-q"), 1)
    assert not (tmp_path / "audit" / "tags.csv").exists()


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_wrong_password_is_said_and_never_shown(shell, auth):
    with Sandbox(sample=True, users={"ada": "right"}, auth=auth) as sandbox:
        command = ["audit", sandbox.host, "-u", "ada", "--password-stdin", "--out", "audit", "-q"]
        wrong = shell(*command, stdin="canary-wrong\n")
        assert "not accepted" in sentence(wrong, 1)
        assert "canary" not in wrong.output
        assert "login" in sentence(shell("audit", sandbox.host, "--out", "audit", "-q"), 1)
        assert shell(*command, stdin="right\n").exit_code == 0


def test_a_snapshot_of_another_version_is_refused(shell, served, tmp_path):
    shell("audit", served.host, "--out", "audit", "-q")
    header = tmp_path / "audit" / "snapshot" / "snapshot.json"
    header.write_text(header.read_text().replace(FORMAT, "regaudit-snapshot/99"))
    assert "regaudit-snapshot/99" in sentence(shell("report", "audit/snapshot"), 1)


@pytest.mark.parametrize("change", [("deleted", "kept"), ("shop/checkout/api", "shop/checkout/apx"), ('"180', '"181')])
def test_a_plan_edited_by_hand_is_refused_and_nothing_is_deleted(shell, served, tmp_path, change):
    approved_plan(shell, served)
    text = (tmp_path / "plan.json").read_text()
    edited = text.replace(*change) if change[0] in text else text.replace('"allow_empty":false', '"allow_empty":true')
    assert edited != text
    (tmp_path / "plan.json").write_text(edited)
    assert "was changed" in sentence(shell("apply", "plan.json"), 1)
    assert deletions(served) == []


def test_a_plan_that_nobody_approved_is_refused(shell, served):
    shell("audit", served.host, "--out", "audit", "-q")
    shell("plan", "audit/snapshot", *RULE, "-o", "plan.json")
    assert "regaudit approve" in sentence(shell("apply", "plan.json"), 1)
    assert deletions(served) == []


def test_where_deletion_is_disabled_one_request_is_sent_and_the_reason_said(shell):
    with Sandbox(sample=True, deletion=False) as sandbox:
        before = contents(sandbox)
        approved_plan(shell, sandbox)
        result = shell("apply", "plan.json")
        sentence(result, 1)
        assert "switch it on" in result.output
        assert len(deletions(sandbox)) == 1
        assert contents(sandbox) == before


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(main.commands)), ["journal", "show"]])
def test_help_is_there_for_every_command(shell, command):
    result = shell(*command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_the_installed_program_ends_in_the_same_statuses(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "regaudit.cli", "audit", "127.0.0.1:1", "--out", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("regaudit: ")


def test_the_usual_way_keeps_its_lines_in_the_help(shell):
    lines = shell("--help").stdout.splitlines()
    assert "  The usual way:" in lines
    assert any(line.strip().startswith("regaudit report audit/snapshot --out audit/report  ") for line in lines)


@pytest.mark.parametrize(("arguments", "says"), [(["nope"], "No such command"), (["audit"], "audit [OPTIONS] HOST")])
def test_what_is_typed_wrong_is_one_line(shell, arguments, says):
    result = shell(*arguments)
    sentence(result, 2)
    assert says in result.output


def test_a_port_that_is_none_or_taken_is_a_sentence(shell, sandbox):
    for port in ("99999", sandbox.host.partition(":")[2]):
        sentence(shell("sandbox", "--port", port), 2)


def test_the_sentence_about_a_login_is_whole_where_secrets_are_taken_out(shell):
    with Sandbox(users={"ada": "right"}) as locked:
        result = shell("audit", locked.host, "--out", "audit", "-q")
    sentence(result, 1)
    assert "give username= and password=, -u on the command line" in result.output
    assert "***" not in result.output


def test_the_sandbox_speaks_v1_too_where_asked_and_ends_on_an_interrupt():
    line = [sys.executable, "-m", "regaudit.cli", "sandbox", "--v1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        host = serving.stdout.readline().split()[0]
        with Registry(host) as registry:
            assert (registry.version, registry.v1.ping().status) == ("v2", 200)
        serving.send_signal(signal.SIGINT)
        try:
            assert serving.wait(20) == 0
            assert serving.stderr.read() == "ended\n"
        finally:
            serving.kill()  # or leaving the block would wait for it


def test_help_lists_every_command_once_and_cuts_none_off(shell):
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(main.commands)
    shown = shell("--help").output
    assert "..." not in shown.partition("\nSee:")[2]


def test_a_pattern_that_no_repository_is_like_is_not_an_audit_without_problems(shell, served):
    done = shell("audit", f"{served.host}/shpo/**", "--out", "audit")
    assert done.exit_code == 1
    assert "is like shpo/**" in done.stderr
    assert not Path("audit/tags.csv").exists()


def test_no_progress_bar_is_drawn_where_nobody_looks(shell, served):
    assert shell("audit", f"{served.host}/charts/*", "--out", "audit").stderr == ""


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("legacy/billing:0.4.9", "did you mean '0.4.1'?"),
        ("legacy/billing:nope", "where legacy/billing has 0, "),
        ("legacy/biling:0.4", "such as legacy/billing"),
    ],
)
def test_a_tag_that_was_typed_wrong_is_answered_with_what_is_there(shell, served, typed, says):
    shell("audit", f"{served.host}/legacy/*", "--out", "audit")
    Path("policy.toml").write_text('version = 1\n[[sections]]\nrepositories = ["**"]\n')
    done = shell("explain", "audit/snapshot", "--policy", "policy.toml", typed)
    assert done.exit_code == 2
    assert says in done.stderr
