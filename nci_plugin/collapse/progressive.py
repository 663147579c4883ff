"""Collapse through the depth of a network: directions within a class, and how NC1 falls from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nci_plugin.checks import check_finite, check_width
from nci_plugin.collapse.geometry import Undefined
from nci_plugin.collapse.registry import BEYOND, metric
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import unit_rows
from nci_plugin.rows import id_labels


class Directions:
    """Sums of h / ||h|| by class of K classes and P features, batch by batch; a feature of length 0 is left out."""

    def __init__(self, num_classes: int, num_features: int) -> None:
        self.sums = torch.zeros(num_classes, num_features, dtype=torch.float64)
        self.counts = torch.zeros(num_classes, dtype=torch.float64)

    def update(self, features: Tensor, labels: Tensor) -> Directions:
        """Add features (n, P) with labels (n,) in 0..K-1; raises PluginError on another width, NaN or label."""
        check_width("collapse", features, self.sums.shape[1])
        check_finite("collapse", features)
        labels = id_labels("collapse", labels, len(features), len(self.counts))
        rows = unit_rows(features)
        self.sums.index_add_(0, labels, rows)
        self.counts.index_add_(0, labels, rows.any(dim=1).double())
        return self

    def mean_cosine(self) -> float:
        """Mean over classes of the mean cosine of all pairs of samples of a class, -1 to 1 (collapse of directions).

        With the mean u_k of the n_k unit features it is (n_k ||u_k||^2 - 1) / (n_k - 1), so no pair is computed.
        Raises Undefined where no class has two features that are not 0.
        """
        several = self.counts > 1
        if not several.any():
            raise Undefined("collapse: cosines within classes need a class of two features that are not 0")
        counts = self.counts[several]
        squares = self.sums[several].square().sum(dim=1) / counts  # n_k ||u_k||^2
        return float(((squares - 1) / (counts - 1)).mean())


@metric("directional, mean cosine within classes", "cosine", of="held_out num_classes", ideal=1, larger=True)
def within_cosine(split: FeatureSplit, num_classes: int) -> float:
    """Directional collapse: mean over classes of the mean cosine of h_i and h_j of one class, -1 to 1.

    1 where all features of a class point the same way, whatever their lengths, as a shallow homogeneous ReLU network
    trained from small weights first does (Maennel et al. 2018); not centred. NC1 = 0 implies it, it does not imply NC1.
    """
    found = Directions(num_classes, split.num_features if len(split) else 1)
    for chunk in split.chunks():
        found.update(chunk.features, chunk.labels)
    return found.mean_cosine()


@dataclass(frozen=True)
class Progress:
    """How a metric of variability goes from stage to stage.

    Args:
        monotonicity: share of the steps from a stage to the next at which it falls, 0 to 1 (progressive collapse).
        factor: rho of the log-linear fit D_l = rho^l D_0 (He & Su 2023, law of data separation): below 1 it falls.
        determination: R^2 of that fit, 0 to 1; None where the metric is the same at all stages.
    """

    stages: int
    monotonicity: float
    factor: float
    determination: float | None

    def __str__(self) -> str:
        fit = "undefined" if self.determination is None else f"{self.determination:.3g}"
        return (
            f"falls in {self.monotonicity * (self.stages - 1):.0f} of {self.stages - 1} steps (monotonicity"
            f" {self.monotonicity:.3g}); log-linear fit: times {self.factor:.3g} a stage, R² {fit}"
        )


@metric("progressive, factor a stage", of="stages", name="progress.factor", into=BEYOND)
@metric("progressive, monotonicity", of="stages", name="progress.monotonicity", ideal=1, larger=True, into=BEYOND)
def progress(values: Sequence[float | None]) -> Progress:
    """Monotonicity and log-linear fit of values D_l above 0, a stage l each, from the first stage to the last.

    log D_l = log D_0 + l log rho by least squares (He & Su 2023, law of data separation); monotonicity is the share of
    steps with D_{l+1} < D_l. Raises Undefined with fewer than three stages, two of which any line fits, and where a
    value is missing or not above 0.
    """
    known = [value for value in values if value is not None and 0 < value < float("inf")]
    if len(known) < len(values) or len(known) < 3:
        raise Undefined(
            f"collapse: a fit over stages needs three of them with a value above 0, got {len(known)} of {len(values)}"
        )
    from scipy.stats import linregress  # 0.6 s

    logs = np.log(known)
    fit = linregress(np.arange(len(logs)), logs)
    constant = np.ptp(logs) == 0
    return Progress(
        len(known), float((np.diff(logs) < 0).mean()), float(np.exp(fit.slope)), None if constant else fit.rvalue**2
    )
