"""The decision: split-conformal p-values and thresholds with their intervals, from scores of ID samples alone.

All of it holds in finite samples, whatever the scores, where the calibration samples and the new ID sample are
exchangeable and none of them fitted, tuned or chose anything (Vovk, Gammerman & Shafer 2005; Vovk 2012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, betabinom, binomtest

from nci_plugin.checks import PluginError, check_number

TPR, CONFIDENCE = 0.95, 0.95
DIGITS = 12
"""1 - 0.9 is not 0.1 in floating point: levels are rounded to so many decimal places."""

POOLED = -1
"""The group of the classes that have too few calibration samples for a threshold of their own."""

Floats = NDArray[np.floating]
Classes = NDArray[np.integer]


@dataclass(frozen=True)
class Threshold:
    """A sample is called OOD where its score is below ``value``: the ``rank``-th smallest of ``n`` calibration scores.

    The TPR that it has on new ID samples, its *realised* TPR, is a random number, since the calibration scores were
    drawn: it is at least ``tpr`` in the mean, and Beta(n + 1 - rank, rank) of it if scores do not tie (above that
    if they do). ``low`` and ``high`` are the central interval of that, at ``confidence``.
    """

    value: float
    tpr: float
    n: int
    rank: int
    low: float
    high: float
    confidence: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return (
            f"{self.value:.6g} (TPR {100 * self.tpr:g} %; with {100 * self.confidence:g} % confidence"
            f" {100 * self.low:.2f} to {100 * self.high:.2f} %, from {self.n} validation samples)"
        )


def level_of(tpr: float) -> float:
    """The level 1 - tpr, 0..1 exclusive to 12 decimal places; raises PluginError on another ``tpr``."""
    remedy = "; 0.95 keeps 95 % of the ID samples"
    check_share("tpr", tpr, remedy)
    level = round(1 - tpr, DIGITS)
    if not 0 < level < 1:
        raise PluginError(f"tpr: must differ from 0 and 1 by at least 1e-{DIGITS}, got {tpr!r}{remedy}")
    return level


def check_share(what: str, value: float, remedy: str = "") -> None:
    """Raise PluginError unless ``value`` is a number between 0 and 1, exclusive."""
    check_number(what, value, above=0)
    if value >= 1:
        raise PluginError(f"{what}: must be a share between 0 and 1, got {value:g}{remedy}")


def rank_of(n: int, tpr: float) -> int:
    """l = floor((n + 1)(1 - tpr)): a sample whose score is below the l-th smallest of n is rejected; 0 = too few."""
    return min(n, math.floor(round((n + 1) * level_of(tpr), 6)))  # a tpr above 0 is below 1, however it is rounded


def check_enough(n: int, tpr: float) -> None:
    """Raise PluginError where so few calibration samples could reject nothing at this TPR."""
    if rank_of(n, tpr) < 1:
        raise PluginError(
            f"threshold at TPR {100 * tpr:g} %: needs at least {least_samples(tpr)} calibration samples, got {n};"
            " pass more validation images, or a smaller tpr"
        )


def least_samples(tpr: float) -> int:
    """The fewest calibration samples with which any sample can be rejected: 1 / (1 - tpr) - 1, and at least one."""
    return max(1, math.ceil(round(1 / level_of(tpr), 6)) - 1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores (n,) of ID samples that nothing was fitted on, ascending, and the classes (n,) that they are predicted as.

    With ``by_class`` a sample is judged among those that are predicted as its class. The guarantee then holds within
    every class that has enough of them for the asked TPR; the other classes are pooled, and it holds over the pool.
    """

    scores: Floats
    classes: Classes
    by_class: bool = False
    _groups: dict[float, Mapping[int, Floats]] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Floats, classes: Classes, by_class: bool = False) -> Calibration:
        """Sort scores (n,) with their predicted classes (n,); raises PluginError where there are none, or on NaN."""
        if not len(scores) or not np.isfinite(scores).all():
            raise PluginError(f"calibration: needs finite scores of ID samples, got {len(scores)} scores")
        order = np.argsort(scores, kind="stable")
        return cls(scores[order], classes[order], by_class)

    def __len__(self) -> int:
        return len(self.scores)

    def p_values(self, scores: Floats, classes: Classes | None = None, tpr: float = TPR) -> Floats:
        """(1 + #{calibration scores <= s}) / (n + 1) of scores (m,): an ID sample's is <= u with probability <= u.

        With ``by_class`` the calibration scores are those of the group of the predicted class, and ``tpr`` decides
        which classes have enough of them to be a group. NaN counts as below them all.
        """
        if not self.by_class:
            return _p_values(self.scores, scores)
        found, groups = np.empty(len(scores)), self.groups(tpr)
        for group, rows in self._rows_of_groups(classes, tpr).items():
            found[rows] = _p_values(groups[group], scores[rows])
        return found

    def thresholds(self, tpr: float = TPR, confidence: float = CONFIDENCE) -> dict[int, Threshold]:
        """The threshold of every group; without ``by_class`` that of all classes, under `POOLED`."""
        groups = self.groups(tpr) if self.by_class else {POOLED: self.scores}
        return {group: threshold(scores, tpr, confidence) for group, scores in groups.items()}

    def is_ood(self, scores: Floats, classes: Classes | None = None, tpr: float = TPR) -> NDArray[np.bool_]:
        """Whether each of scores (m,) is below its group's threshold, as its p-value is at most 1 - tpr; NaN is."""
        if not self.by_class:
            return ~np.asarray(scores >= threshold(self.scores, tpr).value)
        found, thresholds = np.empty(len(scores), dtype=bool), self.thresholds(tpr)
        for group, rows in self._rows_of_groups(classes, tpr).items():
            found[rows] = ~(scores[rows] >= thresholds[group].value)
        return found

    def groups(self, tpr: float = TPR) -> Mapping[int, Floats]:
        """Calibration scores by group: a class with enough of them by itself, and the pool of all others.

        A pool that is too small takes in the smallest of the other groups until it is not.
        """
        level = level_of(tpr)
        if level not in self._groups:
            least = least_samples(tpr)
            counts = {int(c): int(n) for c, n in zip(*np.unique(self.classes, return_counts=True))}
            own = sorted((c for c in counts if counts[c] >= least), key=lambda c: counts[c])
            pooled = len(self) - sum(counts[c] for c in own)
            while own and pooled < least:
                pooled += counts[own.pop(0)]
            groups = {c: self.scores[self.classes == c] for c in sorted(own)}
            groups[POOLED] = self.scores[~np.isin(self.classes, own)]
            self._groups[level] = groups
        return self._groups[level]

    def _rows_of_groups(self, classes: Classes | None, tpr: float) -> dict[int, NDArray[np.intp]]:
        if classes is None:
            raise PluginError("calibration by class: needs the predicted class of every sample; pass classes")
        groups = self.groups(tpr)
        group = np.where(np.isin(classes, list(groups)), classes, POOLED)
        return {name: np.flatnonzero(group == name) for name in groups}


def _p_values(calibration: Floats, scores: Floats) -> Floats:
    below = np.where(np.isnan(scores), 0, np.searchsorted(calibration, scores, side="right"))
    return (1.0 + below) / (len(calibration) + 1)


def threshold(calibration: Floats, tpr: float = TPR, confidence: float = CONFIDENCE) -> Threshold:
    """The threshold of ascending calibration scores (n,) that keeps the share ``tpr`` of ID samples, 0..1.

    Raises PluginError where there are fewer than 1 / (1 - tpr) - 1: no sample could be rejected at that level.
    """
    n, rank = len(calibration), rank_of(len(calibration), tpr)
    check_share("confidence", confidence)
    check_enough(n, tpr)
    low, high = beta(n + 1 - rank, rank).interval(confidence)
    return Threshold(float(calibration[rank - 1]), tpr, n, rank, float(low), float(high), confidence)


def clopper_pearson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval (low, high) of a share of which ``successes`` of ``n`` independent samples were counted.

    For a threshold that was fixed before these samples came, and not on them (Clopper & Pearson 1934).
    """
    low, high = binomtest(successes, n).proportion_ci(confidence)
    return float(low), float(high)


def rejections(threshold: Threshold, m: int, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """How many of ``m`` new ID samples fall below a threshold: the central interval of a beta-binomial.

    It counts both chances: that of the calibration scores, and that of the new samples.
    """
    low, high = betabinom(m, threshold.rank, threshold.n + 1 - threshold.rank).interval(confidence)
    return int(low), int(high)
