"""What the plots show: the claims of `regaudit.analysis.plots` and its kin."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import datetime, timedelta

import matplotlib as mpl
import pytest
from builders import Build, days_before
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib import style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import regaudit as ra
from regaudit.analysis.drawing import lightness
from regaudit.analysis.plots import squarified
from regaudit.errors import PlanError, UsageError


def plot_app(snapshot, **options):
    """Draw the time line of a repository that every snapshot here has, or has not."""
    return ra.plot_timeline(snapshot, next(iter(snapshot.repositories)), **options)


def plot_its_plan(snapshot, **options):
    images = snapshot.tags[snapshot.tags["kind"] == "image"]
    return ra.plot_plan(ra.plan(snapshot, images, allow_empty=True), **options)


PLOTS = [
    ra.plot_storage,
    ra.plot_treemap,
    ra.plot_sharing,
    ra.plot_layers,
    ra.plot_ages,
    ra.plot_growth,
    plot_app,
    plot_its_plan,
]
OF_COUNTS = [ra.plot_storage, ra.plot_treemap, ra.plot_sharing, ra.plot_layers, plot_app, plot_its_plan]
LONG = "payments/ledger-service-with-a-rather-long-name/backend"
HOSTILE = ["x/$x^{2$", "$\\frac{1}{0}$", "\u65e5\u672c", "\u202egnp\x1b[31m", "<b>&amp;"]
CLEAR = {"figure.facecolor": "none", "axes.facecolor": "none"}

plt.switch_backend("agg")


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    assert plt.get_fignums() == []


def axes(**size):
    return Figure(**{"figsize": (8, 5), "layout": "constrained"} | size).subplots()


def texts(ax):
    """Return every text on a plot, after drawing it as a file would."""
    ax.figure.savefig(io.BytesIO(), format="png", dpi=30)
    found = [*ax.texts, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
    legend = ax.get_legend()
    found += legend.get_texts() if legend else []
    assert not [text for text in found if text.get_text() and text.get_parse_math() and "$" in text.get_text()]
    return [text.get_text() for text in found] + [ax.get_title(loc="left")]


def words(ax):
    """Return all texts of a plot as one, however their lines are broken."""
    return " ".join(" ".join(texts(ax)).split())


def sample():
    mib = 1 << 20
    build = Build().image("team/app", tags=["1"], created=days_before(400), layers={"base": 100 * mib, "a": 20 * mib})
    build.image("team/app", tags=["2"], created=days_before(10), layers={"base": 100 * mib, "a2": 5 * mib})
    build.image(LONG, tags=["1", "latest"], created=days_before(180), layers={"base": 100 * mib})
    build.image("unknown", tags=["1"], layers={"alone": 3 * mib}).cosign("team/app", "1")
    return build


@pytest.mark.parametrize("plot", PLOTS)
class TestEveryPlot:
    def test_it_draws_on_the_axes_given(self, plot):
        ax = axes()
        assert plot(sample().snapshot(), ax=ax) is ax

    def test_without_axes_a_script_keeps_no_figure_of_pyplots(self, plot):
        assert isinstance(plot(sample().snapshot()).figure, Figure)

    def test_an_empty_snapshot_says_so_in_words(self, plot):
        said = " ".join(texts(plot(Build().repository("a").snapshot(), ax=axes())))
        assert "No" in said

    def test_hostile_names_are_drawn_as_plain_text(self, plot):
        build = Build()
        for name in HOSTILE:
            build.image(name, tags=[name], created=days_before(5), layers={"base": 1000, name: 500})
        said = texts(plot(build.snapshot(), ax=axes()))
        assert all(text.replace("…", "").replace("→", "").isascii() for text in said if text not in {"", "\u2212"})

    @pytest.mark.parametrize(("theme", "light"), [("default", False), ("dark_background", True)])
    def test_its_words_stand_out_on_the_ground_that_the_style_gives(self, plot, theme, light):
        with style.context(theme):
            ax = plot(sample().snapshot())
        ground = lightness(ax.figure.get_facecolor())
        for text in (ax.title, ax._left_title, *ax.get_xticklabels(), *ax.get_yticklabels()):
            assert contrast(lightness(text.get_color()), ground) > 4.5 or not text.get_text()
        assert (lightness(ax._left_title.get_color()) > 0.5) is light

    def test_on_a_transparent_ground_its_title_is_read_on_white_and_on_a_notebooks_black(self, plot):
        with mpl.rc_context(CLEAR):
            colour = lightness(to_rgb(plot(sample().snapshot())._left_title.get_color()))
        assert min(contrast(colour, 1.0), contrast(colour, lightness("#111111"))) > 4.2


@pytest.mark.parametrize("plot", OF_COUNTS)
@pytest.mark.parametrize("top", [0, -1, True, "5"])
def test_a_count_that_is_none_is_refused(plot, top):
    with pytest.raises(UsageError, match=r"(top|limit)="):
        plot(sample().snapshot(), ax=axes(), top=top)


def contrast(one, other):
    darker, lighter = sorted([one, other])
    return (lighter + 0.05) / (darker + 0.05)


def test_where_pyplots_figures_are_shown_it_is_one_of_them(monkeypatch):
    """As in a notebook, which shows them at the end of the cell."""
    monkeypatch.setattr(mpl, "get_backend", lambda **_: "module://matplotlib_inline.backend_inline")
    ax = ra.plot_storage(sample().snapshot())
    assert [plt.figure(number) for number in plt.get_fignums()] == [ax.figure]
    plt.close("all")


def test_importing_the_plots_does_not_import_matplotlib():
    code = "import sys, regaudit.analysis.plots, regaudit.analysis.plots_of_time, regaudit.cleaner.picture"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('matplotlib' in sys.modules)"], check=False)
    assert done.returncode == 0


class TestStorage:
    def test_a_bar_is_unique_and_shared_bytes_and_carries_their_sum(self):
        ax = ra.plot_storage(sample().snapshot(), ax=axes())
        assert [round(bar.get_width()) for bar in ax.patches] == [25, 0, 3, 100, 100, 0]
        assert {"125.0 MiB", "100.0 MiB", "3.0 MiB", "configs and layers (MiB)"} <= set(texts(ax))

    def test_a_long_name_is_cut_in_the_middle(self):
        assert "payments/ledger-…ong-name/backend" in texts(ra.plot_storage(sample().snapshot(), ax=axes()))

    def test_only_the_largest_are_drawn_and_the_rest_is_said(self):
        said = texts(ra.plot_storage(sample().snapshot(), ax=axes(), top=1))
        assert "the 1 largest of 3 repositories" in " ".join(" ".join(said).split())

    def test_what_is_not_known_is_said(self):
        snapshot = sample().image("team/app", tags=["x"], layers={"odd": None}).unread("team/other", "slow").snapshot()
        for plot in (ra.plot_storage, ra.plot_treemap):
            said = words(plot(snapshot, ax=axes()))
            assert "blobs of unknown size, not counted: 1" in said
            assert "repositories not fully read, which may hold more: 1" in said
        assert "layers of unknown size, not drawn: 1" in words(ra.plot_layers(snapshot, ax=axes()))


class TestTreemap:
    def test_every_byte_is_drawn_once(self):
        ax = ra.plot_treemap(sample().snapshot(), ax=axes())
        areas = {tile.get_label(): tile.get_width() * tile.get_height() for tile in ax.patches}
        whole = sum(areas.values())
        box = ax.get_window_extent()
        assert whole == pytest.approx(box.width * box.height * (72 / ax.figure.dpi) ** 2, rel=1e-6)
        shares = {name: round(100 * area / whole) for name, area in areas.items()}
        assert shares == {"shared by several repositories": 78, "team/app": 20, "unknown": 2, LONG: 0}
        assert "128.0 MiB" in " ".join(texts(ax))

    def test_small_repositories_share_a_tile(self):
        labels = [tile.get_label() for tile in ra.plot_treemap(sample().snapshot(), ax=axes(), top=1).patches]
        assert labels == ["shared by several repositories", "team/app", "2 other repositories"]

    def test_a_name_that_is_too_long_for_its_tile_is_broken_behind_a_slash(self):
        build = Build().image(f"team/{LONG}", tags=["1"], layers={"x": 1 << 20})
        build.image("other", tags=["1"], layers={"y": 4 << 20})
        said = texts(ra.plot_treemap(build.snapshot(), ax=axes(figsize=(5, 3))))
        assert any(text.startswith("team/") and "\n" in text and text.endswith("1.0 MiB") for text in said)

    @given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=60), st.floats(1, 900), st.floats(1, 900))
    def test_tiles_fill_the_area_and_do_not_overlap(self, weights, width, height):
        whole = sum(weights)
        areas = sorted((weight / whole * width * height for weight in weights), reverse=True)
        placed = list(squarified(areas, width, height))
        assert [w * h for _, _, w, h in placed] == pytest.approx(areas, rel=1e-6, abs=1e-6)
        assert all(x >= -1e-6 and y >= -1e-6 for x, y, _, _ in placed)
        assert all(x + w <= width * (1 + 1e-6) and y + h <= height * (1 + 1e-6) for x, y, w, h in placed)


class TestLayers:
    def test_a_bar_is_a_layer_and_says_who_holds_it(self):
        said = texts(ra.plot_layers(sample().snapshot(), ax=axes()))
        assert any("payments/led" in text and " +1  " in text for text in said)
        assert {"100.0 MiB, 3 manifests", "20.0 MiB, 1 manifest", "shared by several repositories"} <= set(said)


class TestAges:
    def test_bars_count_the_tags_of_known_age_and_words_the_others(self):
        ax = ra.plot_ages(sample().snapshot(), ax=axes())
        assert sum(bar.get_height() for bar in ax.patches) == 4
        assert "1 tag of unknown age is not drawn" in words(ax)

    @pytest.mark.parametrize("older_than", ["180D", timedelta(days=180)])
    def test_the_cut_divides_tags_as_stale_tags_does(self, older_than):
        ax = ra.plot_ages(sample().snapshot(), ax=axes(), older_than=older_than)
        said = texts(ax)
        assert "1 tag is older than 180D (2025-12-03)" in " ".join(" ".join(said).split())
        assert sum(bar.get_height() for bar in ax.patches) == 4
        assert {"older", "not older"} <= set(said)

    def test_age_is_measured_at_the_moment_given(self):
        said = texts(ra.plot_ages(sample().snapshot(), ax=axes(), older_than="180D", now=days_before(-10)))
        assert "3 tags are older than 180D" in " ".join(" ".join(said).split())
        with pytest.raises(UsageError, match="time zone"):
            ra.plot_ages(sample().snapshot(), now=datetime(2026, 1, 1))  # noqa: DTZ001 -- that is the point

    def test_a_short_history_is_drawn_by_day(self):
        build = Build().image("a", tags=["1"], created=days_before(3)).image("a", tags=["2"], created=days_before(0))
        assert "by day" in words(ra.plot_ages(build.snapshot(), ax=axes()))

    def test_only_unknown_ages_are_said_and_not_drawn(self):
        said = texts(ra.plot_ages(Build().image("a", tags=["1", "2"]).snapshot(), ax=axes()))
        assert "2 tags of unknown age are not drawn" in said

    def test_a_tag_newer_than_the_reading_began_is_drawn(self):
        """Pushed while the audit ran."""
        snapshot = Build().image("a", tags=["1"], created=days_before(0)).snapshot()
        moved = snapshot.tags.assign(created=snapshot.tags["created"] + (snapshot.taken_at - days_before(400)))
        object.__setattr__(snapshot, "tags", moved)
        assert sum(bar.get_height() for bar in ra.plot_ages(snapshot, ax=axes()).patches) == 1


class TestGrowth:
    def test_a_blob_counts_from_the_oldest_image_that_holds_it(self):
        ax = ra.plot_growth(sample().snapshot(), ax=axes())
        (line,) = ax.lines
        assert [round(amount) for amount in line.get_ydata()] == [120, 120, 125, 125]
        said = " ".join(texts(ax))
        assert "125.0 MiB" in said
        assert "of unknown date, not drawn: 3.0 MiB" in said

    def test_several_readings_are_points_and_one_that_is_not_complete_is_a_ring(self):
        readings = [later(sample(), 0), later(sample().unread("team/app", "slow"), 7), later(sample(), 14)]
        ax = ra.plot_growth(readings[::-1], ax=axes())
        assert [len(line.get_xdata()) for line in ax.lines] == [3, 2, 1]
        assert "not fully read: at least" in texts(ax)
        assert "3 readings" in " ".join(texts(ax))

    def test_readings_of_two_registries_or_of_none_are_refused(self):
        with pytest.raises(UsageError, match="several registries"):
            ra.plot_growth([sample().snapshot(), Build("other:5000").snapshot()])
        with pytest.raises(UsageError, match="nothing to draw"):
            ra.plot_growth([])


def later(build, days):
    snapshot = build.snapshot()
    object.__setattr__(snapshot, "taken_at", snapshot.taken_at + timedelta(days=days))
    return snapshot


class TestTimeline:
    def test_tags_on_one_digest_share_a_row_and_the_newest_is_on_top(self):
        ax = ra.plot_timeline(sample().tag("team/app", "2", "latest").snapshot(), "team/app", ax=axes())
        assert [label.get_text() for label in ax.get_yticklabels()] == ["2, latest", "1"]
        assert "3 tags, on 2 digests" in words(ax)

    def test_what_is_older_than_the_cut_is_marked_otherwise(self):
        ax = ra.plot_timeline(sample().snapshot(), "team/app", older_than="180D", ax=axes())
        assert {"created", "created, older", "180D before the reading"} <= set(texts(ax))

    def test_a_push_is_a_ring_on_the_same_row(self):
        build = Build().image("a", tags=["1"], created=days_before(9), pushed=days_before(2))
        ax = ra.plot_timeline(build.snapshot(), "a", ax=axes())
        assert {"created", "pushed"} <= set(texts(ax))

    def test_tags_of_unknown_age_are_said_and_not_drawn(self):
        assert "1 tag of unknown age is not drawn" in texts(ra.plot_timeline(sample().snapshot(), "unknown", ax=axes()))

    def test_a_repository_that_is_not_there_is_refused_with_one_that_is(self):
        with pytest.raises(UsageError, match="it has for example team/app"):
            ra.plot_timeline(sample().snapshot(), "team/ap")


class TestSharing:
    def test_a_cell_is_the_layers_that_two_repositories_hold(self):
        said = texts(ra.plot_sharing(sample().snapshot(), ax=axes()))
        assert said.count("100") >= 1
        assert "unknown" not in said

    def test_where_nothing_is_shared_it_says_so(self):
        build = Build().image("a", tags=["1"], layers={"x": 1}).image("b", tags=["1"], layers={"y": 1})
        said = texts(ra.plot_sharing(build.snapshot(), ax=axes()))
        assert "No two repositories share a layer of known size." in said


class TestPlan:
    def plan(self, **options):
        snapshot = sample().snapshot()
        return ra.plan(snapshot, ["team/app:1", f"{LONG}:1", f"{LONG}:latest"], allow_empty=True, **options)

    def test_parts_of_the_bars_that_come_back_add_up_to_what_the_plan_says(self):
        plan = self.plan()
        ax = ra.plot_plan(plan, ax=axes())
        freed = sum(bar.get_width() for bar in ax.containers[2])
        assert freed * (1 << 20) == pytest.approx(plan.reclaimable_bytes, abs=1)
        assert plan.bytes_text(plan.reclaimable_bytes) + " come back" in " ".join(texts(ax))

    def test_a_bar_is_what_its_repository_holds_before_the_plan(self):
        ax = ra.plot_plan(self.plan(), ax=axes())
        said = texts(ax)
        assert {"125.0 MiB → 105.0 MiB", "100.0 MiB → 0 B"} <= set(said)
        widths = [[round(bar.get_width()) for bar in part] for part in ax.containers]
        assert widths == [[105, 0], [0, 100], [20, 0]]

    def test_a_plan_without_its_snapshot_says_how_to_load_it(self, tmp_path):
        loaded = ra.Plan.load(self.plan().save(tmp_path / "plan.json"))
        with pytest.raises(PlanError, match=r"snapshot=Snapshot\.load"):
            ra.plot_plan(loaded)

    def test_a_plan_that_deletes_nothing_says_so(self):
        plan = ra.plan(sample().snapshot(), ["unknown:1"])
        assert "No manifest would go; 1 candidate is refused." in texts(ra.plot_plan(plan, ax=axes()))
