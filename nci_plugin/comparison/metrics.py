"""Metrics of ID against OOD scores as functions of `Counts`: each is written once, for the data and for replicates.

All return a share in 0..1; larger score = ID throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nci_plugin.comparison.counts import Counts, Floats, Numbers, SortedScores
from nci_plugin.metrics import OOD_RECALL

Curve = NDArray[np.float64]

ID_ACCEPTED = 0.95
"""The share of ID samples that a threshold chosen on ID samples keeps."""

OOD_SHARE = 0.5
"""The share of OOD samples among all inputs that AURC and AUGRC are computed for unless another is given."""


def auroc(counts: Counts) -> float:
    """Chance that an ID sample scores above an OOD sample, a tie counting half; higher is better, 0.5 is chance.

    The area under the ROC curve (Hanley & McNeil 1982), as `nci_plugin.metrics.auroc`.
    """
    twice_below = counts.ood_below[:-1] + counts.ood_below[1:].astype(np.float64)
    return float(np.diff(counts.id_below) @ twice_below) / (2 * counts.n_id * counts.n_ood)


def fpr95(counts: Counts) -> float:
    """Share of ID samples called OOD when 95 % of the OOD samples are found; lower is better, 0..1.

    OpenOOD's FPR@95, OOD being positive: the first point of scikit-learn's ROC curve with that recall. The curve leaves
    out points between two equal steps, which matters only where ID and OOD samples share scores.
    """
    end = int(np.searchsorted(counts.ood_below, _at_least(OOD_RECALL, counts.n_ood)))
    if counts.id_below[end] > counts.id_below[end - 1]:
        end = _next_point(counts, end)
    return float(counts.id_below[end]) / counts.n_id


def fpr_at_id_tpr95(counts: Counts) -> float:
    """Share of OOD samples accepted at the highest threshold that keeps 95 % of the ID samples; lower is better, 0..1.

    FPR at 95 % TPR with ID being positive (Hendrycks & Gimpel 2017; Liang et al. 2018), the side that pytorch-ood and
    most papers take. The threshold is an ID score, so it can be set without OOD samples.
    """
    return 1 - rejection(counts)


def rejection(counts: Counts) -> float:
    """Share of the second samples rejected at the highest threshold that keeps 95 % of the first, 0..1.

    With clean ID samples as the first and covariate-shifted ID samples as the second: how many of the latter a
    threshold set on clean images turns away, 0.05 without a shift; lower is better for who wants the full spectrum
    accepted (Yang et al. 2023, arXiv 2204.05306, count them as ID).
    """
    allowed = counts.n_id - _at_least(ID_ACCEPTED, counts.n_id)
    place = int(np.searchsorted(counts.id_below, allowed, side="right")) - 1
    return float(counts.ood_below[place]) / counts.n_ood


def aupr_in(counts: Counts) -> float:
    """Area under the precision-recall curve, ID being positive; higher is better, 0..1.

    The trapezoid area, as OpenOOD computes it, not average precision.
    """
    return _aupr(counts.n_id - counts.id_below[::-1], counts.n_ood - counts.ood_below[::-1])


def aupr_out(counts: Counts) -> float:
    """As `aupr_in`, OOD being positive."""
    return _aupr(counts.ood_below, counts.id_below)


def aurc(counts: Counts, ood_share: float = OOD_SHARE) -> float:
    """Area under the risk-coverage curve; lower is better, 0..1.

    A sample that is accepted is a failure if it is OOD or its class is wrong. Risk is the share of failures among the
    accepted, coverage the share accepted of all inputs, of which ``ood_share`` are OOD (Geifman & El-Yaniv 2017,
    arXiv 1705.08500; with OOD samples Jaeger et al. 2023, arXiv 2211.15259). Trapezoids between distinct thresholds,
    and the last risk down to coverage 0, as in the latter's code.
    """
    accepted, failed = _accepted(counts, ood_share)
    last = int(np.searchsorted(-accepted, 0.0)) - 1  # nothing is accepted above the highest score that was drawn
    risk = np.zeros_like(accepted)
    np.divide(failed[: last + 1], accepted[: last + 1], out=risk[: last + 1])
    risk[last + 1] = risk[last]
    return _area(accepted, risk)


def augrc(counts: Counts, ood_share: float = OOD_SHARE) -> float:
    """Area under the generalized risk-coverage curve; lower is better, 0..0.5.

    As `aurc` with the share of accepted failures among all inputs as the risk: the mean chance that a failure goes
    undetected (Traub et al. 2024, arXiv 2407.01032). Of all inputs that fail in a share e it is
    (1 - AUROC of failures) e (1 - e) + e^2 / 2.
    """
    return _area(*_accepted(counts, ood_share))


def autc(counts: Counts) -> float:
    """Area under the threshold curve; lower is better, 0..1.

    Half the area under the share of ID samples called OOD plus half that under the share of OOD samples called ID, over
    all thresholds (Humblot-Renaux et al. 2023, arXiv 2306.14658). It depends on the scale of the scores: here they go
    to [0, 1] by the smallest and the largest of these ID and OOD samples, also in replicates, so one outlier moves it.
    The areas are those of the step curves; the authors' code joins their points by lines, up to one sample's step
    apart. Where all scores are equal it is 0.5.
    """
    low, high = np.float64(counts.scores[0]), np.float64(counts.scores[-1])
    if low == high:
        return 0.5
    called_ood = (high - counts.scores.astype(np.float64)) / (high - low)
    id_mean = float(np.diff(counts.id_below) @ called_ood) / counts.n_id
    ood_mean = float(np.diff(counts.ood_below) @ called_ood) / counts.n_ood
    return (id_mean + 1 - ood_mean) / 2


@dataclass(frozen=True)
class Metric:
    """A metric that detectors can be compared by.

    ``needs_wrong``: it counts wrong predictions too, at an OOD share. ``samples`` says what it sets against what:
    ``ood`` the ID samples of a setting and each OOD set, ``csid_near`` covariate-shifted ID and each near set,
    ``csid`` clean ID and each covariate-shifted set.
    """

    label: str
    function: Callable[..., float]
    higher_is_better: bool
    needs_wrong: bool = False
    samples: str = "ood"


METRICS = {
    "auroc": Metric("AUROC", auroc, True),
    "fpr95": Metric("FPR@95", fpr95, False),
    "fpr_at_id_tpr95": Metric("FPR at 95 % ID TPR", fpr_at_id_tpr95, False),
    "aupr_in": Metric("AUPR_IN", aupr_in, True),
    "aupr_out": Metric("AUPR_OUT", aupr_out, True),
    "aurc": Metric("AURC", aurc, False, needs_wrong=True),
    "augrc": Metric("AUGRC", augrc, False, needs_wrong=True),
    "autc": Metric("AUTC", autc, False),
    "csid_auroc": Metric("AUROC of shifted ID against near", auroc, True, samples="csid_near"),
    "csid_rejection": Metric("shifted ID rejected at 95 % clean ID", rejection, False, samples="csid"),
}


def measure(
    name: str,
    id_scores: Floats,
    ood_scores: Floats,
    wrong: NDArray[np.bool_] | None = None,
    ood_share: float = OOD_SHARE,
) -> float:
    """A metric of `METRICS`, in percent, of scores (n_id,) and (n_ood,); larger = ID.

    ``wrong`` (n_id,) marks the ID samples whose class was predicted wrongly; AURC and AUGRC need it.
    """
    metric = METRICS[name]
    sorted_scores = SortedScores(id_scores, ood_scores, wrong if metric.needs_wrong else None)
    return 100 * apply(metric, sorted_scores.counts(), ood_share)


def apply(metric: Metric, counts: Counts, ood_share: float) -> float:
    """The metric's share; ``ood_share`` matters only to those that count failures."""
    return metric.function(counts, ood_share) if metric.needs_wrong else metric.function(counts)


def _at_least(share: float, total: int) -> int:
    """The smallest count whose quotient by ``total``, as a float, reaches ``share``: as scikit-learn compares them."""
    count = int(np.ceil(share * total))
    while count > 0 and (count - 1) / total >= share:
        count -= 1
    return count + (count / total < share)


def _next_point(counts: Counts, end: int) -> int:
    """The first end of a group of equal scores, from ``end`` on, that is a point of scikit-learn's ROC curve."""
    steps = np.stack([np.diff(counts.id_below), np.diff(counts.ood_below)])
    drawn = np.flatnonzero(steps.any(axis=0))
    steps = steps[:, drawn]
    kept = np.ones(len(drawn), dtype=bool)
    kept[1:-1] = (steps[:, 1:-1] != steps[:, 2:]).any(axis=0)
    return int(drawn[kept & (drawn >= end - 1)][0]) + 1


def _aupr(positives: Numbers, negatives: Numbers) -> float:
    """From how many positive and negative samples are called positive, ascending from none to all."""
    called = positives + negatives
    precision = np.ones(len(called))
    np.divide(positives, called, out=precision, where=called > 0)
    return float(np.diff(positives) @ (precision[:-1] + precision[1:])) / (2 * float(positives[-1]))


def _accepted(counts: Counts, ood_share: float) -> tuple[Curve, Curve]:
    """The shares of all inputs that are accepted, and accepted failures, at each threshold and at none (G + 1,)."""
    if counts.wrong_below is None:
        raise ValueError("AURC and AUGRC need to know which ID samples were predicted wrongly")
    of_id, of_ood = (1 - ood_share) / counts.n_id, ood_share / counts.n_ood
    ood = of_ood * (counts.n_ood - counts.ood_below)
    accepted = of_id * (counts.n_id - counts.id_below) + ood
    return accepted, of_id * (counts.wrong_below[-1] - counts.wrong_below) + ood


def _area(coverage: Curve, risk: Curve) -> float:
    """Trapezoids under a curve whose coverage falls to 0."""
    return float((coverage[:-1] - coverage[1:]) @ (risk[:-1] + risk[1:])) / 2
