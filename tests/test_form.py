"""The review form without a kernel: its messages are handed in and its answers read, as the page would."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from builders import Build, days_before

from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.outcomes import Outcome, Run
from regaudit.cleaner.plan import Plan, plan
from regaudit.cleaner.rows import PlanRow
from regaudit.errors import NotFound, PlanError, RegistryError, UsageError
from regaudit.inventory.collect import collect
from regaudit.notebook.form import ReviewForm, review

REGISTRY = "registry:5000"
PATIENCE = 10.0
_JOURNALS = itertools.count()


class FakeCleaner:
    """Keeps to the interface of `Cleaner`, and does what the test tells it."""

    def __init__(self, last: Run | None = None) -> None:
        self.registry = SimpleNamespace(host=REGISTRY)
        self.journal = SimpleNamespace(path=Path("state") / f"{next(_JOURNALS)}" / "journal.sqlite")
        self.last = last
        self.executed: list[Plan] = []
        self.undone: list[Run] = []
        self.before: list[Plan] = []
        self.words: dict[str, str] = {}
        self.failure: Exception | None = None
        self.fails_after: int = 0
        self.gate: Callable[[], Any] = lambda: None

    def execute(self, plan: Plan, *, progress: Any = None, stop: Any = None) -> Run:
        plan.check()
        self.executed.append(plan)
        outcomes: list[Outcome] = []
        for row in plan.rows:
            if stop.is_set():
                break
            if self.failure and len(outcomes) == self.fails_after:
                self.last = Run("run-1", plan.hash, "delete", tuple(outcomes), stopped=True) if outcomes else None
                raise self.failure
            outcomes.append(outcome_of(row, self.words.get(row.repository, "deleted")))
            progress(outcomes[-1])
            self.gate()
        self.last = Run("run-1", plan.hash, "delete", tuple(outcomes), stopped=len(outcomes) < len(plan.rows))
        return self.last

    def undo(self, run: Run, *, progress: Any = None, stop: Any = None) -> Run:
        self.undone.append(run)
        outcomes = [replace(o, outcome=self.words.get("undo", "restored")) for o in run.outcomes]
        for outcome in outcomes:
            progress(outcome)
        return Run("run-2", run.plan_hash, "undo", tuple(outcomes), stopped=False)

    def last_run(self, plan: Plan) -> Run | None:
        return self.last if self.last and self.last.plan_hash == plan.hash else None

    def interrupted_run(self) -> Run | None:
        return self.last if self.last and self.last.stopped else None

    def planned(self, run: Run) -> Plan:
        return next(plan for plan in reversed([*self.before, *self.executed]) if plan.hash == run.plan_hash)

    busy = False


def outcome_of(row: PlanRow, word: str) -> Outcome:
    return Outcome(row.key, row.repository, row.digest, row.tags, row.action, word, f"it was {word}")


class Page:
    """The page's side: sends what a browser sends and keeps the last view."""

    def __init__(self, form: ReviewForm) -> None:
        self.form = form
        self.views: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        form.send = self._take
        self.ask("hello")
        if form._lookup is not None:
            form._lookup.join(PATIENCE)

    def _take(self, view: dict[str, Any], buffers: Any = None) -> None:
        with self._changed:
            (self.views if view["type"] == "view" else self.others).append(view)
            self._changed.notify_all()

    @property
    def view(self) -> dict[str, Any]:
        return self.views[-1]

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        generation = self.views[-1]["generation"] if self.views else 0
        self.form._handle_custom_msg({"do": do, "id": "1", "generation": generation} | fields, [])
        return self.view

    def until(self, stage: str) -> dict[str, Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: self.view["stage"] == stage, PATIENCE), self.view
        return self.view

    def delete(self, **fields: Any) -> dict[str, Any]:
        typed = {"by": "Ada", "reason": "full", "typed": self.view["review"]["phrase"]}
        return self.ask("delete", **(typed | fields))

    @property
    def keys(self) -> list[str]:
        return [row["key"] for row in self.view["rows"]]


def many(count: int = 60) -> Plan:
    """Plan so many tags in two repositories, one day apart, and a kept one in each."""
    build = Build(REGISTRY)
    for place in range(count):
        repository = f"team/app{place % 2}"
        build.image(
            repository, tags=[f"v{place:03}"], created=days_before(place + 1), layers={f"layer{place}": 1000 + place}
        )
    for repository in ("team/app0", "team/app1"):
        build.image(repository, tags=["kept"], created=days_before(0.5))
    names = [f"team/app{place % 2}:v{place:03}" for place in range(count)]
    return plan(build.snapshot(), names)


def tangled() -> Plan:
    """Plan an index with two children and a signature, an alias that is kept, and a protected tag."""
    build = Build(REGISTRY)
    build.index(
        "web", tags=["1.0", "old"], created="2025-01-01", platforms={"linux/amd64": {"a": 10}, "linux/arm64": {"b": 20}}
    )
    build.cosign("web", "1.0")
    build.image("web", tags=["2.0", "latest"], created="2026-01-01", layers={"c": 30})
    build.image("web", tags=["release"], created="2026-01-02", layers={"d": 30})
    build.image("web", tags=["other"], created="2026-01-03", layers={"e": 30})
    return plan(build.snapshot(), ["web:1.0", "web:old", "web:2.0", "web:release"], protect=["release"])


def candidates(made: Plan) -> pd.DataFrame:
    return made.frame().rename(columns={"tags": "tag"})[["repository", "tag", "digest"]]


def open_page(made: Plan, cleaner: FakeCleaner | None = None, **options: Any) -> Page:
    return Page(review(made, cleaner or FakeCleaner(), **options))


# -- looking -----------------------------------------------------------------------------------


def test_only_the_page_in_view_crosses_to_the_browser():
    page = open_page(many(60), page_size=25)
    assert [len(page.ask("page", page=number)["rows"]) for number in (0, 1, 2, 99)] == [25, 25, 10, 10]
    assert page.view["page"] == 2, "a page beyond the last one is the last one"


def test_no_row_is_in_the_state_that_a_notebook_saves():
    page = open_page(many(3))
    page.ask("set", key=page.keys[0], selected=True)
    saved = {name: value for name, value in page.form.get_state().items() if name not in ("_esm", "_css")}
    assert "team/app" not in str(saved)
    assert "journal.sqlite" not in str(saved)


def test_a_static_page_shows_the_headline_escaped_and_no_row():
    made = replace(many(3), registry="<b>evil</b>:5000", snapshot=None)
    form = review(replace(many(3)), FakeCleaner())
    form._plan = made
    data, _ = form._repr_mimebundle_()
    assert "3 digests with 3 tags" in data["text/html"]
    assert "<b>" not in data["text/html"]
    assert "team/app" not in data["text/html"] + data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data


@pytest.mark.parametrize(
    ("words", "count"),
    [("", 60), ("app1", 30), ("APP1 v05", 5), ("v007", 1), ("sha256:", 60), ("nowhere", 0)],
)
def test_every_word_of_the_filter_must_occur(words, count):
    assert open_page(many(60)).ask("filter", text=words)["matching"] == count


def test_the_reason_is_searched_too():
    made = many(4)
    frame = candidates(made).assign(reason=["alpha", "beta", "alpha", "gamma"])
    assert open_page(plan(made.snapshot, frame)).ask("filter", text="alpha")["matching"] == 2


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"text": "v0[0-4][02468]$", "regex": True}, 25),
        ({"text": "^team/app1:v00", "regex": True}, 5),
        ({"text": "^app1", "regex": True}, 0),
        ({"repository": "app1"}, 30),
        ({"repository": "team/*"}, 60),
        ({"repository": "*"}, 0),
        ({"age": "50d"}, 11),
        ({"age": "<50d"}, 49),
        ({"size": "<1010"}, 0),
        ({"size": "2050"}, 10),
        ({"repository": "app0", "age": "50d", "text": "v05"}, 5),
    ],
)
def test_conditions_narrow_the_rows_together(fields, count):
    assert open_page(many(60)).ask("filter", **fields)["matching"] == count


def test_what_is_not_known_is_neither_old_nor_young_neither_large_nor_small():
    build = Build(REGISTRY).image("a", tags=["kept"]).image("a", tags=["odd"], layers={"x": None})
    page = open_page(plan(build.snapshot(), ["a:odd"]))
    for fields in ({"age": "1d"}, {"age": "<1d"}):
        assert page.ask("filter", **fields)["matching"] == 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"text": "v(", "regex": True}, "no regular expression"),
        ({"text": "(?=v)", "regex": True}, "no regular expression"),
        ({"age": "old"}, "not a duration"),
        ({"size": "big"}, "not a size"),
        ({"repository": "Team*!"}, "not a pattern"),
    ],
)
def test_a_filter_that_cannot_be_read_says_so_and_matches_nothing(fields, told):
    page = open_page(many(3))
    view = page.ask("filter", **fields)
    assert told in view["filter_error"]
    assert view["matching"] == 0
    assert page.ask("select_filtered")["totals"]["rows"] == 0
    assert page.ask("filter", text="", regex=False, age="", size="", repository="")["matching"] == 3


def test_a_regular_expression_that_would_take_others_for_ever_takes_its_length():
    build = Build(REGISTRY).image("a", tags=["kept"]).image("a", tags=["a" * 120])
    page = open_page(plan(build.snapshot(), [f"a:{'a' * 120}"]))
    assert page.ask("filter", text="(a+)+$", regex=True)["matching"] == 1
    assert page.ask("filter", text="(a*)*b$", regex=True)["matching"] == 0


def test_a_child_is_found_by_its_digest_and_shows_its_index():
    made = tangled()
    child = next(row for row in made.rows if row.role == "child")
    assert open_page(made).ask("filter", text=str(child.digest))["rows"][0]["tags"] == ["1.0", "old"]


def test_columns_are_chosen_and_the_name_of_a_row_is_always_there():
    page = open_page(many(3))
    assert page.ask("columns", columns=["frees", "nonsense", 7])["columns"] == ["tags", "frees"]
    assert "list of names" in page.ask("columns", columns="tags")["error"]


def test_what_goes_along_is_hidden_and_shown_row_by_row_or_for_all():
    page = open_page(tangled())
    key, generation = page.keys[0], page.view["generation"]
    assert len(page.ask("open", key=key)["rows"]) == 1
    assert len(page.ask("open", key=key)["rows"]) == 4
    assert len(page.ask("along", shown=False)["rows"]) == 1
    assert len(page.ask("open", key=key)["rows"]) == 4
    assert page.view["generation"] == generation, "a tick of what is in view still counts"
    assert "not a row" in page.ask("open", key="nonsense")["error"]


def test_of_many_that_go_along_a_few_are_shown_until_more_are_asked_for():
    build = Build(REGISTRY).image("web", tags=["kept"])
    build.index("web", tags=["1"], platforms={f"linux/p{number}": {f"l{number}": 1} for number in range(20)})
    page = open_page(plan(build.snapshot(), ["web:1"]))
    assert (len(page.view["rows"]), page.view["rows"][-1]["more"]) == (7, 14)
    assert len(page.ask("open", key=page.keys[0], whole=True)["rows"]) == 21


@pytest.mark.parametrize("column", ["repository", "tags", "digest", "age", "size", "reason", "along", "outcome"])
def test_every_column_sorts_both_ways(column):
    page = open_page(tangled())
    up = page.ask("sort", column=column, descending=False)
    down = page.ask("sort", column=column, descending=True)
    assert up["column"] == down["column"] == column
    assert sorted(row["key"] for row in up["rows"]) == sorted(row["key"] for row in down["rows"])


def test_sorting_by_age_puts_the_youngest_first_and_the_unknown_last():
    build = Build(REGISTRY).image("a", tags=["kept"])
    for tag, days in (("young", 1), ("old", 100), ("middle", 10)):
        build.image("a", tags=[tag], created=days_before(days))
    made = plan(build.image("a", tags=["unknown"]).snapshot(), ["a:unknown", "a:old", "a:young", "a:middle"])
    page = open_page(made)
    tags = [
        [row["tags"][0] for row in page.ask("sort", column="age", descending=down)["rows"]] for down in (False, True)
    ]
    assert tags == [["young", "middle", "old", "unknown"], ["old", "middle", "young", "unknown"]]


def test_a_row_tells_its_aliases_and_what_goes_along_stands_below_it():
    first, *below = open_page(tangled()).view["rows"]
    assert first["tags"] == ["1.0", "old"]
    assert first["along"] == "2 children, 1 referrer"
    assert [row["role"] for row in below] == ["linux/arm64", "linux/amd64", "signature"]
    assert {row["depth"] for row in below} == {1}
    assert not any(row["choosable"] for row in below)
    assert first["digest_full"].startswith(first["digest"])


def test_refused_rows_stand_apart_with_why_and_cannot_be_selected():
    page = open_page(tangled())
    view = page.ask("section", section="refused")
    assert {row["tags"][0]: row["why"] for row in view["rows"]} == {
        "2.0": "deleting the digest would also delete latest, not among the candidates",
        "release": "the tag release is protected",
    }
    assert not any(row["choosable"] for row in view["rows"])
    assert "cannot be selected" in page.ask("select_filtered")["error"]
    assert "can be selected" in page.ask("set", key=page.keys[0], selected=True)["error"]
    assert page.form.selected == []


def test_hostile_text_is_cleaned_before_it_is_sent():
    frame = candidates(many(2)).assign(reason="<img src=x>\x1b[31m\u202eevil")
    view = open_page(plan(many(2).snapshot, frame)).view
    assert view["rows"][0]["reason"] == "<img src=x>\ufffd[31m\ufffdevil"


def test_a_row_with_very_many_tags_does_not_fill_the_page():
    build = Build(REGISTRY).image("a", tags=[f"t{n:03}" for n in range(300)]).image("a", tags=["kept"])
    (row,) = open_page(plan(build.snapshot(), [f"a:t{n:03}" for n in range(300)])).view["rows"]
    assert (len(row["tags"]), row["more_tags"]) == (100, 200)


# -- choosing ----------------------------------------------------------------------------------


def test_nothing_is_selected_at_first():
    page = open_page(many(3))
    assert page.form.selected == []
    assert page.form.run is None
    assert page.form.outcomes.empty
    assert page.view["totals"] == {"rows": 0, "digests": 0, "tags": 0, "bytes": "0 B"}


def test_the_row_that_python_selects_is_the_row_that_was_ticked_whatever_the_order():
    page = open_page(many(60))
    page.ask("sort", column="size", descending=True)
    key = page.ask("filter", text="app1")["rows"][7]["key"]
    page.ask("set", key=key, selected=True)
    page.ask("sort", column="tags", descending=False)
    assert page.form.selected == [key]
    assert [row["key"] for row in page.ask("filter", text="")["rows"] if row["selected"]] in ([key], [])


def test_ticks_of_one_view_may_follow_each_other_without_waiting():
    page = open_page(many(5))
    generation, keys = page.view["generation"], page.keys
    for key in keys[:3]:
        page.ask("set", key=key, selected=True, generation=generation)
    page.ask("set", key=keys[1], selected=False, generation=generation)
    assert page.form.selected == [keys[0], keys[2]]


def test_a_tick_from_a_stale_view_is_refused_with_a_fresh_view():
    page = open_page(many(60))
    stale, key = page.view["generation"], page.keys[0]
    page.ask("filter", text="app1")
    view = page.ask("set", key=key, selected=True, generation=stale)
    assert "view had changed" in view["error"]
    assert page.form.selected == []
    assert view["generation"] > stale


def test_select_all_takes_what_is_filtered_on_all_pages_and_nothing_else():
    page = open_page(many(60), page_size=10)
    page.ask("filter", text="app1")
    view = page.ask("select_filtered")
    assert view["totals"]["rows"] == 30
    assert all("team/app1" in key for key in page.form.selected)
    assert page.ask("clear")["totals"]["rows"] == 0


def test_a_range_is_what_lies_between_in_the_order_of_the_view_on_other_pages_too():
    page = open_page(many(60), page_size=10)
    first = page.ask("sort", column="tags", descending=True)["rows"][3]["key"]
    last = page.ask("page", page=2)["rows"][1]["key"]
    page.ask("set_range", key=last, to=first, selected=True)
    assert sorted(key.partition("@")[0] for key in page.form.selected) == ["team/app0"] * 10 + ["team/app1"] * 9
    assert page.ask("set_range", key=first, to=last, selected=False)["totals"]["rows"] == 0


def test_a_range_of_which_an_end_is_filtered_out_selects_nothing():
    page = open_page(many(60))
    hidden = page.keys[0]
    page.ask("filter", text="app1")
    assert "filtered out" in page.ask("set_range", key=hidden, to=page.keys[3], selected=True)["error"]
    assert page.form.selected == []


def test_the_totals_count_what_goes_along():
    page = open_page(tangled())
    totals = page.ask("set", key=page.keys[0], selected=True)["totals"]
    assert (totals["rows"], totals["digests"], totals["tags"]) == (1, 4, 3)


@pytest.mark.parametrize("key", ["team/app0@sha256:" + "0" * 64, "team/app0:v000", "", None, 7, ["x"]])
def test_a_key_that_the_plan_does_not_have_is_refused(key):
    page = open_page(many(3))
    assert "not a row of this plan" in page.ask("set", key=key, selected=True)["error"]


@pytest.mark.parametrize(
    "message",
    [
        None,
        "text",
        {},
        {"do": "explode"},
        {"do": ["set"]},
        {"do": "page", "page": "x"},
        {"do": "sort", "column": "x"},
        {"do": "section"},
    ],
)
def test_a_message_that_makes_no_sense_is_answered_with_a_sentence(message):
    page = open_page(many(3))
    page.form._handle_custom_msg(message, [])
    assert page.view["error"]
    assert page.view["stage"] == "choose"


# -- reviewing ---------------------------------------------------------------------------------


def reviewed(made: Plan, cleaner: FakeCleaner | None = None) -> Page:
    page = open_page(made, cleaner)
    page.ask("select_filtered")
    page.ask("review")
    return page


def test_the_review_shows_the_exact_plan_and_asks_for_its_number_of_digests():
    page = reviewed(tangled())
    assert page.view["stage"] == "review"
    assert page.view["review"]["phrase"] == "delete 4"
    assert page.view["review"]["title"].startswith("4 digests with 3 tags would go")
    assert len(page.view["rows"]) == 4
    assert [row["role"] for row in page.view["rows"]] == ["", "linux/arm64", "linux/amd64", "signature"]


def test_the_review_tells_what_of_the_selection_is_refused_before_anything_is_confirmed():
    build = Build(REGISTRY)
    build.image("web", name="child", tags=["arm"], layers={"a": 10}).index("web", tags=["1.0"], children=["child"])
    build.image("web", tags=["free"], layers={"b": 10}).image("web", tags=["kept"])
    page = open_page(plan(build.snapshot(), ["web:1.0", "web:arm", "web:free"]))
    for row in page.view["rows"]:
        if "1.0" not in row["tags"]:
            page.ask("set", key=row["key"], selected=True)
    view = page.ask("review")
    assert view["review"]["phrase"] == "delete 1"
    assert len(view["review"]["refused"]) == 1
    assert "the index 1.0" in view["review"]["refused"][0]


def test_a_selection_of_which_nothing_can_go_is_not_reviewed():
    build = Build(REGISTRY)
    build.image("web", name="child", tags=["arm"], layers={"a": 10}).index("web", tags=["1.0"], children=["child"])
    page = open_page(plan(build.image("web", tags=["kept"]).snapshot(), ["web:1.0", "web:arm"]))
    page.ask("set", key=next(row["key"] for row in page.view["rows"] if "arm" in row["tags"]), selected=True)
    view = page.ask("review")
    assert "the index 1.0" in view["error"]
    assert view["stage"] == "choose"


def test_a_plan_of_tags_alone_is_confirmed_by_their_number():
    build = Build(REGISTRY).image("web", tags=["2.0", "latest"])
    assert reviewed(plan(build.snapshot(), ["web:2.0"], untag=True)).view["review"]["phrase"] == "untag 1"


def test_nothing_selected_is_nothing_to_review():
    assert "nothing is selected" in open_page(many(3)).ask("review")["error"]


def test_going_back_keeps_the_selection():
    page = reviewed(many(5))
    view = page.ask("back")
    assert view["stage"] == "choose"
    assert view["totals"]["rows"] == 5
    assert all(row["choosable"] for row in view["rows"])


def test_the_selection_is_frozen_while_it_is_reviewed():
    page = reviewed(many(5))
    assert "go back to change it" in page.ask("clear")["error"]
    assert len(page.form.selected) == 5


# -- deleting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["", "delete", "delete 4", "delete 50", "5", "yes"])
def test_anything_but_the_exact_words_deletes_nothing(typed):
    cleaner = FakeCleaner()
    page = reviewed(many(5), cleaner)
    assert "type exactly delete 5" in page.delete(typed=typed)["error"]
    assert cleaner.executed == []
    assert page.view["stage"] == "review"


def test_somebody_must_approve():
    cleaner = FakeCleaner()
    assert "names who approves" in reviewed(many(5), cleaner).delete(by="  ")["error"]
    assert cleaner.executed == []


def test_a_confirmation_of_a_stale_view_deletes_nothing():
    cleaner = FakeCleaner()
    page = reviewed(many(5), cleaner)
    stale = page.view["generation"]
    page.ask("back")
    page.ask("review")
    assert "view had changed" in page.delete(generation=stale)["error"]
    assert cleaner.executed == []


def test_deleting_carries_out_exactly_what_was_reviewed():
    cleaner = FakeCleaner()
    page = reviewed(tangled(), cleaner)
    shown = page.keys
    page.delete(typed=" Delete  4 ")
    view = page.until("done")
    (executed,) = cleaner.executed
    assert sorted(row.key for row in executed.rows) == sorted(shown)
    assert (executed.approval.by, executed.approval.reason) == ("Ada", "full")
    assert view["progress"]["deleted"] == "4 deleted"
    assert [row["outcome"] for row in view["rows"]] == ["deleted"] * 4
    assert page.form.outcomes["outcome"].tolist() == ["deleted"] * 4
    assert page.form.run.ok


def test_while_it_deletes_the_plan_is_frozen_and_a_second_deletion_cannot_start():
    cleaner, gate = FakeCleaner(), threading.Event()
    cleaner.gate = lambda: gate.wait(PATIENCE)
    page = reviewed(many(5), cleaner)
    page.delete()
    frozen = {
        do: page.ask(do, key=page.keys[0], by="Eve", typed="delete 5")["error"]
        for do in ("set", "select_filtered", "clear", "review", "back", "delete", "undo")
    }
    assert all("frozen" in error for error in frozen.values()), frozen
    assert page.ask("filter", text="v001")["matching"] == 1, "looking changes nothing"
    gate.set()
    page.until("done")
    assert len(cleaner.executed) == 1
    assert page.form.wait(PATIENCE)
    assert len(page.form.selected) == 5


def test_outcomes_are_shown_as_they_come():
    cleaner, gate = FakeCleaner(), threading.Semaphore(0)
    cleaner.gate = lambda: gate.acquire(timeout=PATIENCE)
    page = reviewed(many(5), cleaner)
    page.delete()
    gate.release()
    gate.release()
    deadline = time.monotonic() + PATIENCE
    while page.ask("look")["progress"]["done"] < 3 and time.monotonic() < deadline:
        pass
    assert [row["outcome"] for row in page.view["rows"]] == ["deleted"] * 3 + ["under way…", ""]
    assert len(page.form.outcomes) == 3
    for _ in range(5):
        gate.release()
    page.until("done")


def test_stop_is_taken_from_any_view_and_starts_nothing_more():
    cleaner, gate = FakeCleaner(), threading.Event()
    cleaner.gate = lambda: gate.wait(PATIENCE)
    page = reviewed(many(5), cleaner)
    page.delete()
    assert page.ask("stop", generation=-1)["progress"]["stopping"]
    gate.set()
    view = page.until("done")
    assert view["progress"]["stopped"]
    assert len(page.form.run.outcomes) <= 1


def test_an_error_before_the_first_deletion_is_one_sentence_and_the_review_is_still_there(caplog):
    cleaner = FakeCleaner()
    cleaner.failure = RegistryError("registry:5000 does not answer; token=verysecretvalue")
    page = reviewed(many(5), cleaner)
    page.delete()
    page.form.wait(PATIENCE)
    view = page.until("review")
    assert view["error"] == "registry:5000 does not answer; token=***"
    assert "verysecretvalue" not in caplog.text
    assert view["review"]["phrase"] == "delete 5"
    cleaner.failure = None
    page.delete()
    page.until("done")
    assert page.form.run.ok


def test_an_error_in_the_middle_loses_nothing_and_can_be_undone(caplog):
    cleaner = FakeCleaner()
    cleaner.failure, cleaner.fails_after = ZeroDivisionError("<b>oops</b>"), 2
    page = reviewed(many(5), cleaner)
    with caplog.at_level(logging.WARNING, "regaudit"):
        page.delete()
        view = page.until("done")
    assert view["error"] == "ZeroDivisionError: <b>oops</b>"
    assert "ZeroDivisionError" in caplog.text
    assert view["progress"]["deleted"] == "2 deleted"
    assert view["undo"] == {"armed": False, "count": 2, "run": "run-1"}


def test_a_page_that_cannot_be_told_does_not_end_the_deletion(caplog):
    cleaner, gate = FakeCleaner(), threading.Event()
    page = reviewed(many(5), cleaner)
    take = page._take

    def breaks(view: dict[str, Any], buffers: Any = None) -> None:
        if view["stage"] == "deleting":
            raise OSError("the socket is closed")
        take(view)
        gate.set()

    page.form.send = breaks
    page.delete()
    page.until("done")
    assert len(page.form.run.outcomes) == 5


def test_a_paused_deletion_begins_no_row_until_it_is_resumed():
    cleaner, gate = FakeCleaner(), threading.Semaphore(0)
    cleaner.gate = gate.release
    page = reviewed(many(5), cleaner)
    work = {}
    taken = page._take

    def pause_at_the_first(view: dict[str, Any], buffers: Any = None) -> None:
        taken(view, buffers)
        if view["stage"] == "deleting" and not work:
            work["paused"] = True
            page.form._deletion.pause()

    page.form.send = pause_at_the_first
    page.delete()
    assert page.ask("look")["progress"]["paused"]
    assert gate.acquire(timeout=0) is False, "the first row has not been left"
    assert not page.ask("resume")["progress"]["paused"]
    assert page.until("done")["progress"]["deleted"] == "5 deleted"


def test_stop_ends_a_paused_deletion():
    cleaner = FakeCleaner()
    page = reviewed(many(5), cleaner)
    gate = threading.Event()
    cleaner.gate = lambda: gate.wait(PATIENCE)
    page.delete()
    page.ask("pause")
    page.ask("stop")
    gate.set()
    assert page.until("done")["progress"]["stopped"]


def test_another_form_over_the_same_journal_shows_the_deletion_under_way_and_can_stop_it():
    made, cleaner, gate = many(5), FakeCleaner(), threading.Event()
    cleaner.gate = lambda: gate.wait(PATIENCE)
    first = reviewed(made, cleaner)
    first.delete()
    second = open_page(made, cleaner)
    assert second.view["stage"] == "deleting"
    assert len(second.view["rows"]) == 5
    second.ask("stop")
    gate.set()
    assert second.until("done")["progress"]["stopped"]
    assert len(cleaner.executed) == 1


def test_outcomes_become_a_file_that_is_safe_in_a_spreadsheet(tmp_path):
    page = deleted(FakeCleaner())
    assert page.ask("csv")["error"] == ""
    (sent,) = page.others
    assert sent["name"] == "regaudit-outcomes-run-1.csv"
    text = page.form.save_outcomes(tmp_path / "outcomes.csv").read_text()
    assert text.count("deleted") == 10, "the word and the sentence of each row"
    assert "there are no outcomes yet" in open_page(many(3)).ask("csv")["error"]


# -- one image ---------------------------------------------------------------------------------


def test_details_are_sent_when_they_are_asked_for_and_are_words():
    page = open_page(tangled())
    generation = page.view["generation"]
    page.ask("details", key=page.keys[0])
    (image,) = page.others
    facts = dict(map(tuple, image["facts"]))
    assert image["title"] == f"{REGISTRY}/web:1.0"
    assert facts["tags"] == "1.0, old"
    assert {section["name"] for section in image["sections"]} >= {"platforms", "referrers", "timeline"}
    assert page.view["generation"] == generation
    platforms = next(section for section in image["sections"] if section["name"] == "platforms")
    digest = platforms["rows"][0][platforms["headings"].index("digest")]
    page.ask("details", key=page.keys[0], digest=digest)
    layers = next(section for section in page.others[-1]["sections"] if section["name"] == "layers")
    assert "shared with" in layers["headings"]


@pytest.mark.parametrize(
    "fields", [{"key": "nonsense"}, {"key": None}, {"digest": "sha256:" + "0" * 64}, {"digest": "x"}]
)
def test_details_of_what_is_not_there_are_a_sentence(fields):
    page = open_page(many(3))
    assert page.ask("details", **({"key": page.keys[0]} | fields))["error"]
    assert page.others == []


def test_details_of_a_refused_row_are_there_too():
    page = open_page(tangled())
    page.ask("section", section="refused")
    page.ask("details", key=page.keys[0])
    assert len(page.others) == 1


# -- undoing -----------------------------------------------------------------------------------


def deleted(cleaner: FakeCleaner) -> Page:
    page = reviewed(many(5), cleaner)
    page.delete()
    page.until("done")
    page.form.wait(PATIENCE)
    return page


def test_undo_takes_two_clicks():
    cleaner = FakeCleaner()
    page = deleted(cleaner)
    assert page.view["undo"] == {"armed": False, "count": 5, "run": "run-1"}
    stale = page.view["generation"]
    assert page.ask("undo")["undo"]["armed"]
    assert cleaner.undone == []
    assert "view had changed" in page.ask("undo", sure=True, generation=stale)["error"], "a double click is one click"
    page.ask("undo", sure=True)
    page.form.wait(PATIENCE)
    view = page.until("done")
    assert view["progress"]["restored"] == "5 restored"
    assert [row["outcome"] for row in view["rows"]] == ["deleted, then restored"] * 5
    assert view["undo"] is None, "what is back need not be put back"
    assert page.form.undo_run.ok


def test_undo_can_be_left_and_is_never_sure_at_once():
    cleaner = FakeCleaner()
    page = deleted(cleaner)
    assert page.ask("undo", sure=True)["undo"]["armed"]
    assert not page.ask("keep")["undo"]["armed"]
    assert cleaner.undone == []


def test_an_undo_that_did_not_work_can_be_tried_again():
    cleaner = FakeCleaner()
    page = deleted(cleaner)
    cleaner.words["undo"] = "failed"
    page.ask("undo")
    page.ask("undo", sure=True)
    page.form.wait(PATIENCE)
    assert page.until("done")["undo"] == {"armed": False, "count": 5, "run": "run-1"}


def test_where_nothing_went_there_is_nothing_to_undo():
    cleaner = FakeCleaner()
    cleaner.words = {"team/app0": "already_absent", "team/app1": "skipped"}
    assert deleted(cleaner).view["undo"] is None


def test_a_new_form_for_a_plan_that_ran_says_so_and_offers_undo_and_deletes_nothing():
    made, cleaner = many(5), FakeCleaner()
    page = open_page(made, cleaner)
    page.ask("select_filtered")
    page.ask("review")
    page.delete()
    page.until("done")
    again = open_page(made, cleaner)
    assert again.form.selected == []
    assert again.view["stage"] == "choose"
    assert "already ran" in again.view["notice"]
    assert "5 deleted" in again.view["notice"]
    again.ask("undo")
    again.ask("undo", sure=True)
    again.form.wait(PATIENCE)
    assert again.until("done")["progress"]["restored"] == "5 restored"
    assert len(cleaner.executed) == 1
    assert again.form.run.id == "run-1"


def stopped_after(made: Plan, cleaner: FakeCleaner, count: int, **about: Any) -> None:
    """Leave a run of the whole plan in the journal that was cut off after some rows."""
    final = made.select(row.key for row in made.rows if row.role == "candidate")
    outcomes = tuple(outcome_of(row, "deleted") for row in final.rows[:count])
    keys = tuple(row.key for row in final.rows)
    run = Run("run-0", final.hash, "delete", outcomes, stopped=True, planned=keys, by="Ada", taken_at=made.taken_at)
    cleaner.last = replace(run, **about)
    cleaner.before = [final]


def test_what_a_restart_has_cut_off_is_offered_to_go_on_with_and_confirmed_again():
    made, cleaner = many(5), FakeCleaner()
    stopped_after(made, cleaner, 2)
    page = open_page(made, cleaner)
    assert "2 of 5 rows are done in run run-0" in page.view["notice"]
    assert "approved by Ada" in page.view["notice"]
    assert page.view["continue"] == "Go on with the 3 rows that are left"
    view = page.ask("continue")
    assert view["stage"] == "review"
    assert "goes on with it" in view["notice"]
    assert cleaner.executed == [], "nothing goes before it is confirmed"
    page.delete()
    page.until("done")
    assert cleaner.executed[0].hash == cleaner.last.plan_hash


def test_over_a_new_audit_the_plan_that_was_cut_off_is_gone_on_with_and_no_new_one_is_made():
    made, cleaner = many(5), FakeCleaner()
    stopped_after(made, cleaner, 2)
    page = open_page(plan(made.snapshot, ["team/app0:v004"]), cleaner)
    assert page.view["counts"]["rows"] == 1
    view = page.ask("continue")
    assert view["counts"]["rows"] == 5, "what is done is shown as well: it is the plan that was approved"
    assert "goes on with it" in view["notice"]
    page.ask("details", key=made.rows[0].key)
    assert page.others[-1]["type"] == "details"
    assert page.ask("back")["counts"]["rows"] == 1
    page.ask("continue")
    page.delete()
    page.until("done")
    assert cleaner.executed[0].hash == cleaner.before[0].hash


@pytest.mark.parametrize("about", [{"undone": "run-9"}, {"stopped": False}])
def test_a_run_that_was_undone_or_has_ended_is_not_gone_on_with(about):
    made, cleaner = many(5), FakeCleaner()
    stopped_after(made, cleaner, 2, **about)
    cleaner.last = replace(cleaner.last, plan_hash=made.hash)
    page = open_page(made, cleaner)
    assert page.view["continue"] == ""
    assert "nothing was done" in page.ask("continue", generation=-1)["error"]
    assert "no deletion to go on with" in page.ask("continue")["error"]


def test_a_run_that_another_process_carries_out_can_be_neither_undone_nor_gone_on_with():
    made, cleaner = many(5), FakeCleaner()
    cleaner.busy = True
    stopped_after(made, cleaner, 2)
    page = open_page(made, cleaner)
    assert "another kernel or process" in page.view["notice"]
    assert (page.view["continue"], page.view["undo"]) == ("", None)


def test_a_stopped_deletion_is_gone_on_with_from_the_same_form():
    made, cleaner = many(5), FakeCleaner()
    page = reviewed(made, cleaner)
    gate = threading.Event()
    cleaner.gate = lambda: gate.wait(PATIENCE)
    page.delete()
    page.ask("stop")
    gate.set()
    page.until("done")
    cleaner.last = page.form.run = replace(page.form.run, planned=tuple(row.key for row in made.rows))
    assert page.ask("look")["continue"].startswith("Go on with")
    assert page.ask("continue")["review"]["phrase"] == "delete 5"


def test_displaying_a_form_again_starts_nothing():
    cleaner = FakeCleaner()
    page = deleted(cleaner)
    page.form._repr_mimebundle_()
    assert page.ask("hello")["stage"] == "done"
    assert len(cleaner.executed) == 1


def test_a_journal_that_cannot_be_read_is_told():
    class Broken(FakeCleaner):
        def last_run(self, plan: Plan) -> Run | None:
            raise PlanError("the journal is damaged")

    assert open_page(many(3), Broken()).view["error"] == "the journal is damaged"


# -- opening -----------------------------------------------------------------------------------


def test_a_plan_without_its_snapshot_is_refused_when_the_form_is_made():
    with pytest.raises(PlanError, match="snapshot"):
        review(replace(many(3), snapshot=None), FakeCleaner())


@pytest.mark.parametrize("size", [0, 201])
def test_a_page_size_that_is_none_is_refused(size):
    with pytest.raises(UsageError, match="page_size"):
        review(many(3), FakeCleaner(), page_size=size)


def test_the_journal_is_named():
    assert Path(open_page(many(3)).view["journal"]).name == "journal.sqlite"


# -- with a cleaner that deletes -----------------------------------------------------------------


def cut_off_after_the_first_row(form: ReviewForm) -> None:
    """Have a deletion end as one does whose kernel goes: nobody is told."""

    def hear() -> None:
        form._deletion.stop()

    form._hear = hear


def test_what_one_form_leaves_undone_another_goes_on_with_by_the_journal_and_undoes(registry, tmp_path):
    snapshot = collect(registry, "web/*", progress=False)
    before = set(registry.repository("web/frontend").tags())
    names = [f"web/frontend:{tag}" for tag in sorted(before)[:6]]
    with Cleaner(registry, journal=tmp_path / "journal.sqlite") as cleaner:
        page = open_page(plan(snapshot, names), cleaner)
        page.ask("select_filtered")
        page.ask("review")
        cut_off_after_the_first_row(page.form)
        page.delete()
        assert page.form.wait(PATIENCE)
    with Cleaner(registry, journal=tmp_path / "journal.sqlite") as cleaner:
        made = plan(snapshot, names)
        page = open_page(made, cleaner)
        assert f"1 of {len(made.rows)} rows are done" in page.view["notice"]
        page.ask("continue")
        assert "goes on with it" in page.view["notice"]
        page.delete()
        view = page.until("done")
        assert view["progress"]["deleted"] == f"{len(made.rows) - 1} deleted, 1 deleted before"
        page.form.wait(PATIENCE)
        page.ask("undo")
        page.ask("undo", sure=True)
        page.form.wait(PATIENCE)
        assert page.until("done")["progress"]["restored"] == f"{len(made.rows)} restored"
    assert set(registry.repository("web/frontend").tags()) == before


def test_over_a_new_audit_after_a_restart_children_that_lost_their_index_are_gone_on_with_too(registry, tmp_path):
    app = registry.repository("shop/checkout/api")
    before = set(app.tags())

    def candidates(snapshot):
        indexes = snapshot.tags[(snapshot.tags["kind"] == "index") & (snapshot.tags["tag"] != "latest")]
        return indexes[["repository", "tag"]].assign(reason="a test")

    with Cleaner(registry, journal=tmp_path / "journal.sqlite") as cleaner:
        snapshot = collect(registry, app.name, progress=False)
        page = open_page(plan(snapshot, candidates(snapshot)), cleaner)
        page.ask("select_filtered")
        page.ask("review")
        cut_off_after_the_first_row(page.form)
        page.delete()
        page.form.wait(PATIENCE)
        (gone,) = page.form._deletion.outcomes
        rows = page.form._final.rows
    with Cleaner(registry, journal=tmp_path / "journal.sqlite") as cleaner:
        snapshot = collect(registry, app.name, progress=False)
        orphans = {row.digest for row in rows if row.because == gone}
        assert orphans, "the first of them is an index"
        assert orphans.isdisjoint(snapshot.manifests["digest"].astype("object")), "no audit finds them"
        page = open_page(plan(snapshot, candidates(snapshot)), cleaner)
        page.ask("continue")
        page.delete()
        view = page.until("done")
        assert view["progress"]["deleted"] == f"{len(rows) - 1} deleted, 1 deleted before"
        page.form.wait(PATIENCE)
        for row in rows:
            with pytest.raises(NotFound):
                app.manifest(row.digest)
        page.ask("undo")
        page.ask("undo", sure=True)
        page.form.wait(PATIENCE)
    assert set(app.tags()) == before
