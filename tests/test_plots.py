"""What the plots show: the claims of `regaudit.analysis.plots`."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from builders import Build, days_before
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from regaudit.analysis.plots import plot_ages, plot_sharing, plot_storage
from regaudit.errors import UsageError

PLOTS = [plot_storage, plot_ages, plot_sharing]
LONG = "payments/ledger-service-with-a-rather-long-name/backend"
HOSTILE = ["x/$x^{2$", "$\\frac{1}{0}$", "\u65e5\u672c", "\u202egnp\x1b[31m", "<b>&amp;"]

plt.switch_backend("agg")


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


def axes():
    return Figure(figsize=(8, 5), layout="constrained").subplots()


def texts(ax):
    """Return every text on a plot, after drawing it as a file would."""
    ax.figure.savefig(io.BytesIO(), format="png")
    found = [*ax.texts, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
    legend = ax.get_legend()
    found += legend.get_texts() if legend else []
    return [text.get_text() for text in found] + [ax.get_title(loc="left")]


def sample():
    mib = 1 << 20
    build = Build().image("team/app", tags=["1"], created=days_before(400), layers={"base": 100 * mib, "a": 20 * mib})
    build.image("team/app", tags=["2"], created=days_before(10), layers={"base": 100 * mib, "a2": 5 * mib})
    build.image(LONG, tags=["1", "latest"], created=days_before(180), layers={"base": 100 * mib})
    build.image("unknown", tags=["1"], layers={"alone": 3 * mib}).cosign("team/app", "1")
    return build


@pytest.mark.parametrize("plot", PLOTS)
class TestEveryPlot:
    def test_it_draws_on_the_axes_given_and_makes_no_figure(self, plot):
        ax = axes()
        assert plot(sample().snapshot(), ax=ax) is ax
        assert plt.get_fignums() == []

    def test_without_axes_it_makes_one_figure_that_a_notebook_shows(self, plot):
        ax = plot(sample().snapshot())
        assert [plt.figure(number) for number in plt.get_fignums()] == [ax.figure]

    def test_an_empty_snapshot_says_so_in_words(self, plot):
        said = " ".join(texts(plot(Build().snapshot(), ax=axes())))
        assert "No " in said

    def test_hostile_names_are_drawn_as_plain_text(self, plot):
        build = Build()
        for name in HOSTILE:
            build.image(name, tags=[name], created=days_before(5), layers={"base": 10, name: 5})
        said = texts(plot(build.snapshot(), ax=axes()))
        assert all(text.isascii() or "…" in text for text in said if text not in {"", "\u2212"})


def test_importing_the_plots_does_not_import_matplotlib():
    code = "import sys, regaudit.analysis.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestStorage:
    def test_a_bar_is_unique_and_shared_bytes_and_carries_their_sum(self):
        ax = plot_storage(sample().snapshot(), ax=axes())
        assert [round(bar.get_width()) for bar in ax.patches] == [25, 0, 3, 100, 100, 0]
        assert {"125.0 MiB", "100.0 MiB", "3.0 MiB", "configs and layers (MiB)"} <= set(texts(ax))

    def test_a_long_name_is_cut_in_the_middle(self):
        assert "payments/ledger-…ong-name/backend" in texts(plot_storage(sample().snapshot(), ax=axes()))

    def test_only_the_largest_are_drawn_and_the_rest_is_said(self):
        said = texts(plot_storage(sample().snapshot(), ax=axes(), top=1))
        assert any("the 1 largest of 3 repositories" in text for text in said)

    @pytest.mark.parametrize("top", [0, -1, True, "5"])
    def test_a_count_that_is_none_is_refused(self, top):
        with pytest.raises(UsageError, match="top="):
            plot_storage(sample().snapshot(), ax=axes(), top=top)


class TestAges:
    def test_bars_count_the_tags_of_known_age_and_words_the_others(self):
        ax = plot_ages(sample().snapshot(), ax=axes())
        assert sum(bar.get_height() for bar in ax.patches) == 4
        assert any("1 tag of unknown age is not drawn" in text for text in texts(ax))

    def test_the_cut_divides_tags_as_stale_tags_does(self):
        ax = plot_ages(sample().snapshot(), ax=axes(), older_than="180D")
        said = texts(ax)
        assert any("1 tag is older than 180D (2025-12-03)" in text for text in said)
        assert sum(bar.get_height() for bar in ax.patches) == 4
        assert {"older", "not older"} <= set(said)

    def test_a_short_history_is_drawn_by_day(self):
        build = Build().image("a", tags=["1"], created=days_before(3)).image("a", tags=["2"], created=days_before(0))
        assert any("by day" in text for text in texts(plot_ages(build.snapshot(), ax=axes())))

    def test_only_unknown_ages_are_said_and_not_drawn(self):
        said = texts(plot_ages(Build().image("a", tags=["1", "2"]).snapshot(), ax=axes()))
        assert "2 tags of unknown age are not drawn" in said

    def test_a_tag_newer_than_the_reading_began_is_drawn(self):
        """Pushed while the audit ran."""
        snapshot = Build().image("a", tags=["1"], created=days_before(0)).snapshot()
        moved = snapshot.tags.assign(created=snapshot.tags["created"] + (snapshot.taken_at - days_before(400)))
        object.__setattr__(snapshot, "tags", moved)
        assert sum(bar.get_height() for bar in plot_ages(snapshot, ax=axes()).patches) == 1


class TestSharing:
    def test_a_cell_is_the_layers_that_two_repositories_hold(self):
        said = texts(plot_sharing(sample().snapshot(), ax=axes()))
        assert said.count("100") >= 1
        assert "unknown" not in said

    def test_where_nothing_is_shared_it_says_so(self):
        build = Build().image("a", tags=["1"], layers={"x": 1}).image("b", tags=["1"], layers={"y": 1})
        assert "No two repositories share a layer." in texts(plot_sharing(build.snapshot(), ax=axes()))
