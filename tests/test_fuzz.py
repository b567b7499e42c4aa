"""A short search for input that breaks a parser; `make fuzz` is the long one."""

from __future__ import annotations

import random

import pytest
from fuzzing import CORPUS, TARGETS, check, mutated, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

ANY_SEED = st.integers(0, 2**32)


def test_every_folder_of_the_corpus_belongs_to_a_parser():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept_is_understood_or_refused_as_declared(name):
    kept = seeds(name)
    assert kept
    for data in kept:
        check(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_fed_to_a_parser_it_raises_what_it_declares_and_ends_soon(name, caplog):
    pool = seeds(name)

    @settings(max_examples=40)
    @given(
        st.binary(max_size=200)
        | st.builds(lambda kept, seed: mutated(kept, pool, random.Random(seed)), st.sampled_from(pool), ANY_SEED)
    )
    def feed(data):
        caplog.clear()
        check(name, data)

    feed()


def test_a_parser_that_breaks_or_dawdles_is_found(monkeypatch):
    monkeypatch.setitem(TARGETS, "link", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check("link", b"x")
    monkeypatch.setattr("fuzzing.LONGEST", 0.0)
    monkeypatch.setitem(TARGETS, "link", lambda data: sum(range(10_000)))
    with pytest.raises(AssertionError, match="link took"):
        check("link", b"x")
