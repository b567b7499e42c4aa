"""A dry run says what a reading would cost, and asks for little to know it."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from regaudit.cli import main
from regaudit.client.rates import RateLimit
from regaudit.client.registry import Registry
from regaudit.inventory.cache import default_folder
from regaudit.inventory.collect import collect
from regaudit.inventory.estimate import Estimate
from regaudit.sandbox.server import Sandbox


def estimate(door, *patterns, **options):
    return collect(door, *patterns, progress=False, dry_run=True, **options)


def still(snapshot, kinds=("head", "manifest", "blob", "referrers")):
    return {kind: snapshot.requests.get(kind, 0) for kind in kinds}


@pytest.mark.parametrize("options", [{}, {"head_first": True}, {"referrers": False}])
@pytest.mark.parametrize("warm", [False, True])
def test_what_a_reading_takes_lies_between_the_least_and_the_most(sandbox, registry, options, warm):
    if warm:
        collect(registry, progress=False)
    said = estimate(registry, **options)
    sandbox.requests.clear()
    snapshot = collect(registry, progress=False, **options)
    taken = still(snapshot)
    assert (said.repositories, said.tags) == (len(snapshot.repositories), len(snapshot.tags))
    assert {k for k, n in taken.items() if not said.at_least.get(k, 0) <= n <= said.at_most.get(k, 0)} == set()
    assert said.requests[0] <= sum(taken.values()) <= said.requests[1]
    assert 0 < said.seconds[0] <= said.seconds[1]
    assert bool(said.known_tags) == warm


def test_it_asks_for_the_lists_and_twenty_manifests_at_most(sandbox, registry):
    said = estimate(registry)
    assert sum(said.asked.values()) == len(sandbox.requests)
    assert said.asked["tags"] == said.repositories
    assert 0 < said.asked["manifest"] <= 20
    assert said.asked.keys() <= {"ping", "catalog", "tags", "manifest", "referrers"}


def test_where_a_get_is_metered_it_gets_no_manifest(sandbox, registry):
    said = estimate(registry, head_first=True)
    assert "manifest" not in said.asked
    assert not [path for method, path, _ in sandbox.requests if method == "GET" and "/manifests/" in path]


def test_it_leaves_nothing_behind(registry):
    estimate(registry)
    assert not default_folder().exists()


def test_what_cannot_be_listed_is_said(sandbox, registry):
    sandbox.faults.add(path="/v2/charts/checkout/tags/list", status=403)
    said = estimate(registry, "charts/*")
    assert len(said.problems) == 1
    assert "problems" in str(said)
    assert said.seconds is None
    assert "nothing to try" in str(said)


def test_a_registry_of_the_v1_interface_is_estimated_too(sample):
    with Sandbox(v1="only") as old, Registry(old.host) as door:
        old.v1.set_tag("team/app", "latest", old.v1.put_image("team/app", b"x"))
        said = estimate(door)
        assert (said.repositories, said.tags) == (1, 1)
        assert said.at_most == {"image": 1, "ancestry": 1}


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [(50, 60, "would exceed"), (30, 60, "may exceed"), (30, 40, "40 of 100 requests are left")],
)
def test_it_says_where_the_rate_limit_would_be_exceeded(least, most, words):
    said = Estimate("r", 1, 2, at_least={"head": least}, at_most={"head": most}, rate_limit=RateLimit(100, 40, 21600.0))
    assert words in str(said)
    assert ("6.0 h" in str(said)) == ("exceed" in words)
    assert "rate limit" not in str(replace(said, rate_limit=None))
    assert said.to_dict()["rate_limit"]["remaining"] == 40


def test_it_shows_itself_as_escaped_html_and_as_plain_values(registry):
    said = replace(estimate(registry), problems=("<script>",))
    assert "<script>" not in said._repr_html_()
    assert said.to_dict()["seconds"] == list(said.seconds)
    assert said.to_dict()["at_most"] == said.at_most


def test_the_command_line_prints_it_and_writes_nothing(sample_sandbox, tmp_path):
    done = CliRunner().invoke(main, ["audit", sample_sandbox.host, "--dry-run", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "still to be made" in done.stdout
    assert not (tmp_path / "out").exists()
    missing = CliRunner().invoke(main, ["audit", sample_sandbox.host])
    assert (missing.exit_code, "--out DIR" in missing.stderr) == (2, True)
