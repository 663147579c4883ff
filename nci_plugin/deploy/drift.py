"""Drift: is a window of scores what the calibration scores would lead one to expect?

If the images are still exchangeable with the calibration images, their conformal p-values are uniform (Vovk et al.
2005). What is counted here holds for images that are independent: the frames of one video are not.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import betabinom, ks_2samp

from nci_plugin.checks import PluginError
from nci_plugin.deploy.calibration import CONFIDENCE, Calibration, Floats, clopper_pearson, rejections, threshold
from nci_plugin.rows import as_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Drift:
    """A window of ``n`` scores against ``n_calibration`` calibration scores, all classes together.

    ``ks`` is the largest distance between their distribution functions, 0..1, and ``ks_p`` its p-value under no drift
    (two-sample Kolmogorov-Smirnov). ``rejected`` of them lie below the threshold of ``tpr``: a ``share``, 0..1, whose
    Clopper-Pearson interval is ``low`` to ``high``. Without drift ``expected`` (fewest, most) would (beta-binomial),
    and so many or a number as unlikely with probability ``rejected_p``.
    """

    n: int
    n_calibration: int
    tpr: float
    ks: float
    ks_p: float
    rejected: int
    low: float
    high: float
    expected: tuple[int, int]
    rejected_p: float
    confidence: float
    p_values: Floats

    @property
    def share(self) -> float:
        return self.rejected / self.n

    @property
    def drifted(self) -> bool:
        """Whether either test is below (1 - confidence) / 2: Bonferroni's bound for the two of them."""
        return min(self.ks_p, self.rejected_p) < (1 - self.confidence) / 2

    def __str__(self) -> str:
        fewest, most = self.expected
        return (
            f"{self.n} scores against {self.n_calibration} calibration scores: {self.rejected} below the threshold of"
            f" TPR {100 * self.tpr:g} % ({100 * self.share:.2f} %, {100 * self.confidence:g} % interval"
            f" {100 * self.low:.2f} to {100 * self.high:.2f} %), {fewest} to {most} expected without drift"
            f" (p = {self.rejected_p:.3g}); Kolmogorov-Smirnov {self.ks:.3f} (p = {self.ks_p:.3g}):"
            f" {'drift' if self.drifted else 'no drift seen'}"
        )

    def plot(self) -> Figure:
        """The distribution function of the window's p-values; without drift it lies in the band about the diagonal."""
        from nci_plugin.evaluation.drawn import DrawnFigure

        figure = DrawnFigure(4.5, 4)
        axes = figure.subplots()
        values = np.sort(self.p_values)
        # Dvoretzky-Kiefer-Wolfowitz for two samples; Massart's constant.
        half = np.sqrt(np.log(2 / (1 - self.confidence)) / 2 * (1 / self.n + 1 / self.n_calibration))
        line = np.linspace(0, 1, 101)
        axes.fill_between(line, (line - half).clip(0), (line + half).clip(max=1), color="0.85", label="no drift")
        axes.step(np.concatenate([[0.0], values, [1.0]]), np.linspace(0, 1, self.n + 2), where="post", label="window")
        axes.axvline(1 - self.tpr, color="0.4", linestyle=":", label=f"called OOD (TPR {100 * self.tpr:g} %)")
        axes.set(xlabel="p-value", ylabel="share of the window", xlim=(0, 1), ylim=(0, 1))
        axes.set_title(f"{self.n} images, {self.rejected} called OOD", fontsize="medium")
        axes.legend(loc="lower right", fontsize="small")
        return figure


def drift(calibration: Calibration, scores: Any, tpr: float, confidence: float = CONFIDENCE) -> Drift:
    """Compare a window of scores (m,), or of Predictions, with the calibration scores.

    Raises PluginError on none, NaN or infinity, and on what is no dense tensor, array or list of numbers.
    """
    window = as_numbers("drift: scores", getattr(scores, "scores", scores)).double().numpy().reshape(-1)
    # In the calibration's type: a score that was read from a text is the same number then.
    with np.errstate(over="ignore"):
        window = window.astype(calibration.scores.dtype)
    if not len(window) or not np.isfinite(window).all():
        raise PluginError(f"drift: needs finite scores, got {len(window)} of them, or NaN; leave unreadable images out")
    bound = threshold(calibration.scores, tpr, confidence)
    ks = ks_2samp(window, calibration.scores)
    n, rejected = len(window), int((window < bound.value).sum())
    low, high = clopper_pearson(rejected, n, confidence)
    law = betabinom(n, bound.rank, bound.n + 1 - bound.rank)
    tail = min(float(law.cdf(rejected)), float(law.sf(rejected - 1)))
    p_values = Calibration(calibration.scores, calibration.classes).p_values(window)
    return Drift(
        n,
        bound.n,
        tpr,
        float(ks.statistic),
        float(ks.pvalue),
        rejected,
        low,
        high,
        rejections(bound, n, confidence),
        min(1.0, 2 * tail),
        confidence,
        p_values,
    )


def read_scores(path: str | Path, last: int | None = None) -> Floats:
    """The scores (m,) in a file that ``nci-ood score`` wrote, or the ``last`` of them.

    It is JSON lines, whatever its name, where it begins with a brace, else CSV. Left out are images that could not be
    read, and a last row without an end: it is still being written, or was cut.
    Raises PluginError on a file that has none.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            whole: Iterator[str] = (line for line in lines if line.endswith(("\n", "\r")))
            first = next(whole, "")
            whole = chain([first], whole)
            rows: Iterator[Any] = map(json.loads, whole) if first.startswith("{") else csv.DictReader(whole)
            scores = [float(row["score"]) for row in rows if row["score"] not in ("", None)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, (KeyError, TypeError)):  # a row without it, or one that is no mapping
            reason = "its rows have no score"
        raise PluginError(f"scores '{path}': cannot be read ({reason}); pass a file of 'nci-ood score'") from None
    if not scores:
        raise PluginError(f"scores '{path}': holds no score; pass a file of 'nci-ood score'")
    return np.array(scores[-last:] if last else scores)
