"""A few rounds of the soak; `make soak` goes on for as long as asked."""

from __future__ import annotations

import pytest
from soak import GROWTH_BLOCKS, GROWTH_BYTES, WARM_ROUNDS, Soak, soaking


def test_a_few_rounds_of_audit_deletion_and_undo_under_faults_leave_nothing_open_and_everything_as_it_was(tmp_path):
    with soaking(tmp_path, real=False, seed=1, at_once=1) as soak:
        for _ in range(2):  # one for each driver
            soak.round()
        assert soak.deleted
        assert soak.entries
        assert len(soak.resident) == len(soak.blocks) == 2


def test_growth_of_memory_is_found_and_what_the_first_rounds_take_is_not():
    warm = [100 << 20] * WARM_ROUNDS
    soak = object.__new__(Soak)
    soak.rounds = len(warm)
    soak.resident, soak.blocks = [50 << 20, *warm[1:], *warm], [1, *warm]
    assert soak.check_memory() == 0
    soak.blocks += [warm[0] + GROWTH_BLOCKS] * 2 * WARM_ROUNDS
    with pytest.raises(AssertionError, match=f"grew by {GROWTH_BLOCKS:,} blocks"):
        soak.check_memory()
    soak.blocks.clear()
    soak.resident += [(100 << 20) + GROWTH_BYTES + n for n in range(2 * WARM_ROUNDS)]
    with pytest.raises(AssertionError, match=r"grew by .* bytes"):
        soak.check_memory()
