"""`fpr_at_id_tpr95` against its definition, and OpenOOD's FPR@95 beside it, which stays as OpenOOD computes it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from nci_plugin import evaluate
from nci_plugin.evaluation.results import METRICS, OTHER_METRICS, Result, to_csv
from nci_plugin.metrics import ood_metrics

Scores = NDArray[np.floating]

PROPERTY = settings(max_examples=200, deadline=None, derandomize=True)
FEW = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=45)
"""Scores of few values: nearly all are tied."""
ANY = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=45)


def share_from(scores: Scores, threshold: float) -> Fraction:
    return Fraction(int((scores >= threshold).sum()), len(scores))


def by_definition(id_scores: Scores, ood_scores: Scores) -> float:
    """Every score of both is tried as the threshold, in exact arithmetic; any other one calls no other sample ID."""
    every = np.unique(np.concatenate([id_scores, ood_scores]))
    kept = [threshold for threshold in every if share_from(id_scores, threshold) >= Fraction(95, 100)]
    return float(100 * min(share_from(ood_scores, threshold) for threshold in kept))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@PROPERTY
@given(id_scores=FEW | ANY, ood_scores=FEW | ANY)
def test_every_threshold_by_brute_force(dtype: type, id_scores: list[float], ood_scores: list[float]) -> None:
    one, other = np.array(id_scores, dtype), np.array(ood_scores, dtype)
    assert ood_metrics(one, other).fpr_at_id_tpr95 == pytest.approx(by_definition(one, other), abs=1e-9)


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "expected"),
    [
        (np.arange(100.0), np.arange(100.0), 95.0),
        (np.arange(1000.0), np.arange(1000.0), 95.0),
        (np.repeat(np.arange(100.0), 5), np.repeat(np.arange(100.0), 5), 95.0),
        (np.arange(100.0), np.r_[np.arange(80.0) + 20, -np.ones(20)], 80.0),
        (np.ones(7), np.ones(3), 100.0),
        (np.array([1.0]), np.array([0.0]), 0.0),
        (np.arange(20.0), np.array([0.0, 0.5, 1.0, 19.0]), 50.0),
        (np.arange(19.0), np.array([0.0, -1.0]), 50.0),
        (np.r_[np.zeros(2), np.ones(38)], np.r_[np.zeros(3), np.ones(1)], 25.0),
        (np.r_[np.zeros(3), np.ones(37)], np.r_[np.zeros(3), np.ones(1)], 100.0),
    ],
)
def test_values_by_hand(id_scores: Scores, ood_scores: Scores, expected: float) -> None:
    """Of 40 ID scores 38 are 95 %, 37 are not; of 19, only all are."""
    assert ood_metrics(id_scores, ood_scores).fpr_at_id_tpr95 == pytest.approx(expected, abs=1e-9)
    assert ood_metrics(3 * id_scores - 7, 3 * ood_scores - 7).fpr_at_id_tpr95 == pytest.approx(expected, abs=1e-9)


@PROPERTY
@given(id_scores=FEW | ANY, ood_scores=FEW | ANY)
def test_openoods_value_is_its_own(id_scores: list[float], ood_scores: list[float]) -> None:
    """The lines of openood/evaluators/metrics.py, ties and points on a straight line included."""
    one, other = np.array(id_scores), np.array(ood_scores)
    fpr, tpr, _ = roc_curve(np.r_[np.zeros(len(one)), np.ones(len(other))], -np.r_[one, other])
    assert ood_metrics(one, other).fpr95 == 100 * fpr[np.argmax(tpr >= 0.95)]


def test_it_is_in_every_result_and_in_no_csv(golden: Any) -> None:
    evaluation = evaluate(golden.head, golden.benchmark(), ["msp", "nci"], progress=False)
    for row in evaluation.results:
        if row.setting == "ood" and row.dataset == row.group:
            scores = evaluation.scores[row.detector]
            expected = by_definition(scores["id/test"], scores[f"{row.group}/{row.dataset}"])
            assert row.fpr_at_id_tpr95 == pytest.approx(expected, abs=1e-9)
        assert Result.from_json(row.to_json()) == row
    assert not set(OTHER_METRICS) & set(METRICS)
    header = to_csv(evaluation.results, "msp", "ood", over_seeds=False).splitlines()[0]
    assert header == ",FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC"
