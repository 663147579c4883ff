"""The metrics of an OOD benchmark, with OpenOOD v1.5's conventions (Zhang et al. 2023, openood/evaluators/metrics.py).

OOD is the positive class. AUPR is the trapezoid area under scikit-learn's precision-recall curve, not its average
precision, and ties in scores are averaged, since curves move in one step over equal scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from nci_plugin.checks import PluginError

OOD_RECALL = 0.95
ID_RECALL_PERCENT = 95


@dataclass(frozen=True)
class OODMetrics:
    """Metrics of ID against OOD scores, in percent.

    ``fpr95`` is OpenOOD's, with OOD as the positive class: the share of ID samples that are called OOD at the first
    point of scikit-learn's ``roc_curve`` that finds 95 % of the OOD samples. That curve leaves out points on a straight
    line, so where scores tie, or ID and OOD scores alternate, it is larger than by its own definition: of scores
    against themselves 100, not 95. ``aupr_in`` has ID as the positive class, ``aupr_out`` has OOD.

    ``fpr_at_id_tpr95`` is what most papers print, with ID as the positive class and every point counted: the share of
    OOD scores >= t, t being the largest threshold with a share of ID scores >= t of at least 95 %.
    """

    fpr95: float
    auroc: float
    aupr_in: float
    aupr_out: float
    fpr_at_id_tpr95: float


def auroc(id_scores: NDArray[np.floating], ood_scores: NDArray[np.floating]) -> float:
    """Area under the ROC curve of scores (larger = ID), as a share in 0..1."""
    fpr, tpr = _roc(id_scores, ood_scores)
    return float(auc(fpr, tpr))


def ood_metrics(id_scores: NDArray[np.floating], ood_scores: NDArray[np.floating]) -> OODMetrics:
    """All metrics of scores (n_id,) and (n_ood,), larger = ID."""
    fpr, tpr = _roc(id_scores, ood_scores)
    scores, is_ood = _joined(id_scores, ood_scores)
    precision_in, recall_in, _ = precision_recall_curve(1 - is_ood, scores)
    precision_out, recall_out, _ = precision_recall_curve(is_ood, -scores)
    return OODMetrics(
        fpr95=100 * float(fpr[np.argmax(tpr >= OOD_RECALL)]),
        auroc=100 * float(auc(fpr, tpr)),
        aupr_in=100 * float(auc(recall_in, precision_in)),
        aupr_out=100 * float(auc(recall_out, precision_out)),
        fpr_at_id_tpr95=100 * _fpr_at_id_tpr95(scores[: len(id_scores)], scores[len(id_scores) :]),
    )


def _fpr_at_id_tpr95(id_scores: NDArray[np.floating], ood_scores: NDArray[np.floating]) -> float:
    """See OODMetrics; as a share in 0..1."""
    above = -(-len(id_scores) * ID_RECALL_PERCENT // 100)  # so many ID scores must be >= t, in whole numbers
    threshold = np.sort(id_scores)[len(id_scores) - above]
    return float(np.mean(ood_scores >= threshold))


def accuracy(predictions: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Share of right predictions (n,) among ID samples with labels (n,), in percent."""
    if predictions.shape != labels.shape:  # numpy would compare every prediction with every label
        raise PluginError(f"accuracy: predictions of shape {predictions.shape} and labels of shape {labels.shape}")
    return 100 * float(np.mean(predictions == labels))


def _joined(
    id_scores: NDArray[np.floating], ood_scores: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    is_ood = np.concatenate([np.zeros(len(id_scores), dtype=int), np.ones(len(ood_scores), dtype=int)])
    return np.concatenate([id_scores, ood_scores]), is_ood


def _roc(
    id_scores: NDArray[np.floating], ood_scores: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    scores, is_ood = _joined(id_scores, ood_scores)
    fpr, tpr, _ = roc_curve(is_ood, -scores)
    return fpr, tpr
