"""Whether conditions move fn*, on runs in which the answer was planted."""

from __future__ import annotations

import numpy as np
import pytest
from invariance import DIFFERS, NO_DIFFERENCE, TOO_FEW, invariances
from planted import RULE, onsets_of, planted
from scipy import stats
from significance import smallest_p
from slices import factors, slices

from nci_plugin.dynamics.onset import find_onset


def test_invariance_finds_the_condition_that_moves_fn() -> None:
    generator = np.random.default_rng(0)
    runs = [
        planted(f"{depth}{width}{seed}", 100, (3.0 if depth == 4 else 2.0) + 0.05 * generator.standard_normal(),
                depth=depth, width=width, seed=seed)
        for depth in (2, 4) for width in (32, 64) for seed in range(6)
    ]  # fmt: skip
    found = {each.factor: each for each in invariances(runs, onsets_of(runs))}
    assert found["depth"].verdict == DIFFERS
    assert found["depth"].shift == pytest.approx(0.4, abs=0.05)
    assert found["width"].verdict == NO_DIFFERENCE
    assert found["depth"].n == {"2": 6, "4": 6}
    values = [[find_onset(run, RULE).fn for run in runs if run.conditions["depth"] == depth and
               run.conditions["width"] == found["depth"].held["width"]] for depth in (2, 4)]  # fmt: skip
    assert found["depth"].p["kruskal"] == pytest.approx(1 / 462, abs=0.002)  # no overlap: 2 of 924
    assert found["depth"].p["levene"] == pytest.approx(stats.levene(*values).pvalue)


def test_invariance_says_where_runs_are_too_few() -> None:
    runs = [planted(f"{depth}{seed}", 100, depth + seed, depth=depth, seed=seed) for depth in (2, 4) for seed in (0, 1)]
    runs += [planted("single", 100, 1.0, depth=8)]
    (found,) = invariances(runs, onsets_of(runs))
    assert found.verdict == TOO_FEW
    assert list(found.excluded) == ["8"]


def test_smallest_p_is_that_of_the_exact_test() -> None:
    """Of 20 ways to deal six ranks out to two levels, two part them; of 560 to deal eight out to three, six."""
    assert smallest_p([3, 3]) == pytest.approx(0.1)
    assert smallest_p([2, 3, 3]) == pytest.approx(6 / 560)
    assert smallest_p([3]) == 1.0


def test_slices_hold_all_other_conditions() -> None:
    runs = [planted("a", 100, width=32), planted("b", 100, width=64), planted("c", 100, width=64, depth=5)]
    (only,) = slices(runs, "width")
    assert [run.run for run in only.runs] == ["a", "b"]
    assert factors(runs) == ["depth", "width"]
    assert slices([planted("a", 100, width=32, depth=1), planted("b", 100, width=64, depth=2)], "width") == []
