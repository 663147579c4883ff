"""The metrics of an OOD benchmark: each is declared once, in `metrics.columns`, and read from `metrics.counts`.

Larger score = ID. OpenOOD v1.5's metrics (Zhang et al. 2023, openood/evaluators/metrics.py) have its conventions: OOD
is the positive class, AUPR is the trapezoid area under scikit-learn's precision-recall curve, and equal scores are one
point of a curve.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nci_plugin.checks import PluginError
from nci_plugin.metrics.columns import METRIC_COLUMNS, OOD_SHARE
from nci_plugin.metrics.counts import Floats, SortedScores


@dataclass(frozen=True)
class OODMetrics:
    """What every Result stores of ID against OOD scores, in percent; `METRIC_COLUMNS` says what each is.

    ``fpr95`` is OpenOOD's, ``fpr_at_id_tpr95`` what most papers print.
    """

    fpr95: float
    auroc: float
    aupr_in: float
    aupr_out: float
    fpr_at_id_tpr95: float


def ood_metrics(id_scores: Floats, ood_scores: Floats) -> OODMetrics:
    """All stored metrics of scores (n_id,) and (n_ood,), larger = ID."""
    counts = SortedScores(id_scores, ood_scores).counts()
    return OODMetrics(**{field.name: 100 * METRIC_COLUMNS[field.name].share(counts) for field in fields(OODMetrics)})


def measure(
    name: str,
    id_scores: Floats,
    ood_scores: Floats,
    wrong: NDArray[np.bool_] | None = None,
    ood_share: float = OOD_SHARE,
) -> float:
    """A metric of `METRIC_COLUMNS`, in percent, of scores (n_id,) and (n_ood,); larger = ID.

    ``wrong`` (n_id,) marks the ID samples whose class was predicted wrongly; AURC and AUGRC need it.
    """
    metric = METRIC_COLUMNS[name]
    counts = SortedScores(id_scores, ood_scores, wrong if metric.needs_wrong else None).counts()
    return 100 * metric.share(counts, ood_share)


def auroc(id_scores: Floats, ood_scores: Floats) -> float:
    """Area under the ROC curve of scores (larger = ID), as a share in 0..1.

    By scikit-learn, as OpenOOD: its search takes the larger of two AUROCs even where they differ by rounding alone.
    """
    from sklearn.metrics import auc  # 1 s, which a report does not need

    return float(auc(*roc_points(id_scores, ood_scores)))


def roc_points(id_scores: Floats, ood_scores: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ROC curve of scores (larger = ID): shares in 0..1 of ID samples called OOD, and of OOD samples found."""
    from sklearn.metrics import roc_curve

    is_ood = np.concatenate([np.zeros(len(id_scores), dtype=int), np.ones(len(ood_scores), dtype=int)])
    fpr, tpr, _ = roc_curve(is_ood, -np.concatenate([id_scores, ood_scores]))
    return fpr, tpr


def accuracy(predictions: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Share of right predictions (n,) among ID samples with labels (n,), in percent."""
    if predictions.shape != labels.shape:  # numpy would compare every prediction with every label
        raise PluginError(f"accuracy: predictions of shape {predictions.shape} and labels of shape {labels.shape}")
    return 100 * float(np.mean(predictions == labels))
