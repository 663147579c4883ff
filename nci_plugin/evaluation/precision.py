"""How far a coarser precision of the pass (``--amp``) moves a detector's scores, on rows that passed in float32 too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nci_plugin.benchmarks.benchmark import TEST, Split
from nci_plugin.metrics import auroc

if TYPE_CHECKING:
    from nci_plugin.evaluation.contestant import Scores

AMP_SHIFT = "amp_shift"
"""Field of a result's provenance that holds the `shift` of its detector."""


def shift(coarse: Scores, exact: Scores) -> dict[str, float]:
    """Differences between scores of the same rows by split: those of ``exact`` are the first of ``coarse``.

    ``largest`` and ``mean`` are of |score - score in float32|, in units of the score, ``rank_correlation`` is
    Spearman's over all rows (left out where all scores are equal), and ``auroc`` the largest difference of the AUROC of
    a near or far set, in percentage points.
    """
    from scipy.stats import spearmanr  # 0.6 s

    coarse = {name: coarse[name][: len(scores)] for name, scores in exact.items()}
    one, other = (np.concatenate([scores[name] for name in exact]).astype(np.float64) for scores in (coarse, exact))
    difference = np.abs(one - other)
    found = {"rows": len(one), "largest": float(difference.max()), "mean": float(difference.mean())}
    if one.min() < one.max() and other.min() < other.max():
        found["rank_correlation"] = float(spearmanr(one, other).statistic)
    sets = [name for name in exact if Split.parse(name).is_ood]
    if TEST in exact and sets:
        areas = [[auroc(scores[TEST], scores[name]) for name in sets] for scores in (coarse, exact)]
        found["auroc"] = 100 * max(abs(one - other) for one, other in zip(*areas))
    return found
