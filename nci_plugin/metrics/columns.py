"""The registry of metrics: a metric of ID against OOD scores is one decorated function of `Counts`.

Its label, direction, range and source stand in its decorator; tables, figures, the command line and the reference are
made from `METRIC_COLUMNS`. All functions return a share in 0..1, and are called for the data and for every bootstrap
replicate; larger score = ID throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nci_plugin.metrics.counts import Counts, Numbers

Curve = NDArray[np.floating[Any]]

OOD_RECALL = 0.95
ID_ACCEPTED = 0.95
"""The share of ID samples that a threshold chosen on ID samples keeps."""

OOD_SHARE = 0.5
"""The share of OOD samples among all inputs that AURC and AUGRC are computed for unless another is given."""

OOD, CSID_NEAR, CSID = "ood", "csid_near", "csid"
"""What a metric sets against what: the ID samples of a setting and each OOD set, covariate-shifted ID samples and each
near-OOD set, clean ID samples and each covariate-shifted set."""


@dataclass(frozen=True)
class Metric:
    """A metric in percent: its function of Counts, its column's label, the better direction, range and paper.

    ``needs_wrong``: it counts wrong predictions too, at an OOD share. ``samples`` is one of ``ood``, ``csid_near`` and
    ``csid``.
    """

    name: str
    label: str
    function: Callable[..., float]
    higher_is_better: bool
    range: str
    source: str
    needs_wrong: bool = False
    samples: str = OOD

    def share(self, counts: Counts, ood_share: float = OOD_SHARE) -> float:
        """The value, 0..1; ``ood_share`` matters only to metrics that count failures."""
        return self.function(counts, ood_share) if self.needs_wrong else self.function(counts)


METRIC_COLUMNS: dict[str, Metric] = {}

Function = Callable[..., float]


def metric(
    label: str, *, higher_is_better: bool, range: str, source: str, needs_wrong: bool = False, samples: str = OOD
) -> Callable[[Function], Function]:
    """Register a function as the metric of its name."""

    def register(function: Function) -> Function:
        name = function.__name__
        METRIC_COLUMNS[name] = Metric(name, label, function, higher_is_better, range, source, needs_wrong, samples)
        return function

    return register


@metric("AUROC", higher_is_better=True, range="0-100, 50 by chance", source="Hanley & McNeil 1982")
def auroc(counts: Counts) -> float:
    """Chance that an ID sample scores above an OOD sample, a tie counting half; higher is better, 0.5 is chance.

    P(s_id > s_ood) + P(s_id = s_ood) / 2: the area under the ROC curve, as `nci_plugin.metrics.auroc`.
    """
    twice_below = counts.ood_below[:-1] + counts.ood_below[1:].astype(np.float64)
    return _sum_of_products(np.diff(counts.id_below), twice_below) / (2 * counts.n_id * counts.n_ood)


@metric("FPR@95", higher_is_better=False, range="0-100", source="OpenOOD v1.5, Zhang et al. 2023, arXiv 2306.09301")
def fpr95(counts: Counts) -> float:
    """Share of ID samples called OOD when 95 % of the OOD samples are found; lower is better, 0..1.

    OpenOOD's FPR@95, OOD being positive: the first point of scikit-learn's ROC curve with that recall. The curve leaves
    out points between two equal steps, which matters only where ID and OOD samples share scores.
    """
    end = int(np.searchsorted(counts.ood_below, _at_least(OOD_RECALL, counts.n_ood)))
    if counts.id_below[end] > counts.id_below[end - 1]:
        end = _next_point(counts, end)
    return float(counts.id_below[end]) / counts.n_id


@metric("FPR at 95 % ID TPR", higher_is_better=False, range="0-100", source="Liang et al. 2018, arXiv 1706.02690")
def fpr_at_id_tpr95(counts: Counts) -> float:
    """Share of OOD samples accepted at the highest threshold that keeps 95 % of the ID samples; lower is better, 0..1.

    P(s_ood >= t), t the largest with P(s_id >= t) >= 0.95: FPR at 95 % TPR with ID being positive, the side that
    pytorch-ood and most papers take. The threshold is an ID score, so it can be set without OOD samples.
    """
    return (counts.n_ood - _below_threshold(counts)) / counts.n_ood


@metric("AUPR_IN", higher_is_better=True, range="0-100", source="OpenOOD v1.5, Zhang et al. 2023, arXiv 2306.09301")
def aupr_in(counts: Counts) -> float:
    """Area under the precision-recall curve, ID being positive; higher is better, 0..1.

    The sum of (r_i - r_(i-1)) (p_i + p_(i-1)) / 2 over thresholds, with precision p and recall r: the trapezoid area,
    as OpenOOD computes it, not average precision.
    """
    return _aupr(counts.n_id - counts.id_below[::-1], counts.n_ood - counts.ood_below[::-1])


@metric("AUPR_OUT", higher_is_better=True, range="0-100", source="OpenOOD v1.5, Zhang et al. 2023, arXiv 2306.09301")
def aupr_out(counts: Counts) -> float:
    """As `aupr_in`, OOD being positive."""
    return _aupr(counts.ood_below, counts.id_below)


@metric("AURC", higher_is_better=False, range="0-100", source="Jaeger et al. 2023, arXiv 2211.15259", needs_wrong=True)
def aurc(counts: Counts, ood_share: float = OOD_SHARE) -> float:
    """Area under the risk-coverage curve; lower is better, 0..1.

    The integral of f(c) / c over coverages c from 0 to 1. An accepted sample is a failure if it is OOD or its class is
    wrong; c is the share accepted of all inputs, of which ``ood_share`` are OOD, and f that of accepted failures
    (Geifman & El-Yaniv 2017, arXiv 1705.08500; with OOD samples Jaeger et al. 2023). Trapezoids between distinct
    thresholds, and the last risk down to coverage 0, as in the latter's code.
    """
    accepted, failed = _accepted(counts, ood_share)
    below = counts.id_below + counts.ood_below
    end = int(np.searchsorted(below, below[-1]))  # the first at which nothing is accepted any more
    risk = np.empty(end + 1)
    np.divide(failed[:end], accepted[:end], out=risk[:end])
    risk[end] = risk[end - 1]
    return _area(accepted[: end + 1], risk)


@metric("AUGRC", higher_is_better=False, range="0-50", source="Traub et al. 2024, arXiv 2407.01032", needs_wrong=True)
def augrc(counts: Counts, ood_share: float = OOD_SHARE) -> float:
    """Area under the generalized risk-coverage curve; lower is better, 0..0.5.

    The integral of f(c) over coverages c from 0 to 1, with c and f as in `aurc`: the mean chance that an input fails
    and is accepted. If a share e of all inputs fails it is (1 - AUROC of failures) e (1 - e) + e^2 / 2.
    """
    return _area(*_accepted(counts, ood_share))


@metric("AUTC", higher_is_better=False, range="0-100", source="Humblot-Renaux et al. 2023, arXiv 2306.14658")
def autc(counts: Counts) -> float:
    """Area under the threshold curve; lower is better, 0..1.

    The integral over thresholds t from 0 to 1 of (P(s_id < t) + P(s_ood >= t)) / 2: both error rates, over all
    thresholds. It depends on the scale of the scores: here they go to [0, 1] by the smallest and the largest of these
    ID and OOD samples, so one outlier moves it. Replicates keep that scale, so an interval is about it as it is. The
    areas are those of the step curves; the authors' code joins their points by lines, up to one sample's step
    apart. Where all scores are equal it is 0.5.
    """
    low, high = np.float64(counts.scores[0]), np.float64(counts.scores[-1])
    if low == high:
        return 0.5
    called_ood = (high - counts.scores.astype(np.float64)) / (high - low)
    id_mean = _sum_of_products(np.diff(counts.id_below), called_ood) / counts.n_id
    ood_mean = _sum_of_products(np.diff(counts.ood_below), called_ood) / counts.n_ood
    return (id_mean + 1 - ood_mean) / 2


@metric(
    "AUROC of shifted ID against near",
    higher_is_better=True,
    range="0-100, 50 by chance",
    source="full-spectrum OOD detection, Yang et al. 2023, arXiv 2204.05306",
    samples=CSID_NEAR,
)
def csid_auroc(counts: Counts) -> float:
    """`auroc` of covariate-shifted ID samples against near-OOD samples, without the clean ID samples."""
    return auroc(counts)


@metric(
    "shifted ID rejected at 95 % clean ID",
    higher_is_better=False,
    range="0-100, 5 without shift",
    source="full-spectrum OOD detection, Yang et al. 2023, arXiv 2204.05306",
    samples=CSID,
)
def csid_rejection(counts: Counts) -> float:
    """Share of covariate-shifted ID samples rejected at the highest threshold that keeps 95 % of the clean ID samples.

    How many shifted images a threshold set on clean ones turns away: lower is better for who wants the full spectrum
    accepted.
    """
    return _below_threshold(counts) / counts.n_ood


def _below_threshold(counts: Counts) -> int:
    """How many of the second samples lie below the highest threshold that keeps 95 % of the first."""
    allowed = counts.n_id - _at_least(ID_ACCEPTED, counts.n_id)
    place = int(np.searchsorted(counts.id_below, allowed, side="right")) - 1
    return int(counts.ood_below[place])


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
    return _sum_of_products(np.diff(positives), precision[:-1] + precision[1:]) / (2 * float(positives[-1]))


def _accepted(counts: Counts, ood_share: float) -> tuple[Curve, Curve]:
    """The shares of all inputs that are accepted, and accepted failures, at each threshold and at none (G + 1,)."""
    if counts.wrong_below is None:
        raise ValueError("AURC and AUGRC need to know which ID samples were predicted wrongly")
    of_id, of_ood = (1 - ood_share) / counts.n_id, ood_share / counts.n_ood
    ood = of_ood * (counts.n_ood - counts.ood_below)
    accepted: Curve = np.multiply(of_id, counts.n_id - counts.id_below)
    failed: Curve = np.multiply(of_id, counts.wrong_below[-1] - counts.wrong_below)
    accepted += ood
    failed += ood
    return accepted, failed


def _area(coverage: Curve, risk: Curve) -> float:
    """Trapezoids under a curve whose coverage falls to 0."""
    return _sum_of_products(coverage[:-1] - coverage[1:], risk[:-1] + risk[1:]) / 2


def _sum_of_products(weights: NDArray[Any], values: NDArray[Any]) -> float:
    """Without BLAS: its threads, under those of a bootstrap, took eight times as long, and its sums depend on them."""
    return float(np.einsum("i,i->", weights.astype(np.float64, copy=False), values))
