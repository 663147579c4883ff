"""How far a coarser precision of the pass (``--amp``) moves a detector's scores, on rows that passed in float32 too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from nci_plugin.benchmarks.benchmark import FAR, NEAR, TEST
from nci_plugin.detectors.base import DetectorSetup
from nci_plugin.evaluation.search import Answers, Scores, answer
from nci_plugin.features.bank import FeatureBank
from nci_plugin.metrics import auroc

FLOAT32 = "float32/"
"""Before the name of a split: its first rows in float32."""

AMP_SHIFT = "amp_shift"
"""Field of a result's provenance that holds the `shift` of its detector."""


def answer_and_compare(
    setup: DetectorSetup, bank: FeatureBank, splits: Sequence[str]
) -> tuple[Answers, dict[str, float]]:
    """`answer` of a detector, and the `shift` of its scores; that is empty where the pass was in float32."""
    again = {f"{FLOAT32}{name}": split for name, split in bank.float32.items() if name in splits}
    if not again:
        return answer(setup, bank, splits), {}
    answers = answer(setup, replace(bank, splits={**bank.splits, **again}), [*splits, *again])
    scores = answers.scores
    exact = {name.removeprefix(FLOAT32): scores[name] for name in again}
    coarse = {name: scores[name][: len(values)] for name, values in exact.items()}
    return replace(answers, scores={name: scores[name] for name in splits}), shift(coarse, exact)


def shift(coarse: Scores, exact: Scores) -> dict[str, float]:
    """Differences between scores of the same rows by split.

    ``largest`` and ``mean`` are of |score - score in float32|, in units of the score, ``rank_correlation`` is
    Spearman's over all rows (left out where all scores are equal), and ``auroc`` the largest difference of the AUROC of
    a near or far set, in percentage points.
    """
    one, other = (np.concatenate([scores[name] for name in exact]).astype(np.float64) for scores in (coarse, exact))
    difference = np.abs(one - other)
    found = {"rows": len(one), "largest": float(difference.max()), "mean": float(difference.mean())}
    if one.min() < one.max() and other.min() < other.max():
        found["rank_correlation"] = float(spearmanr(one, other).statistic)
    sets = [name for name in exact if name.split("/")[0] in (NEAR, FAR)]
    if TEST in exact and sets:
        found["auroc"] = 100 * max(abs(_auroc(coarse, name) - _auroc(exact, name)) for name in sets)
    return found


def _auroc(scores: Scores, ood: str) -> float:
    return auroc(scores[TEST], scores[ood])
