"""Ordinal neural collapse, ONC1 to ONC3, of a cumulative link model: functions of features, grades and head alone.

The model is P(grade <= q) = g(b_q - w.h) with thresholds b_1 < ... < b_{Q-1} of Q grades 0..Q-1. Ma et al. (2025,
arXiv 2506.05801) state the properties: features equal their grade's mean (ONC1), the means lie on the line of w
(ONC2), latents z_q = w.mu_q ascend and, for a symmetric link g and decays towards 0, z_q goes to (b_q + b_{q-1}) / 2
(ONC3). How far a network is from them is said by numbers of this package, which stay the same where features and
weight are scaled against each other: they are not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.collapse.geometry import Undefined, centred_means, present_classes
from nci_plugin.collapse.registry import BEYOND, metric
from nci_plugin.collapse.variability import nc1_quotient
from nci_plugin.features.statistics import ClassStatistics


@metric("ONC1", of="statistics", ideal=0, into=BEYOND)
def onc1(statistics: ClassStatistics) -> float:
    """ONC1 (Ma et al. 2025), by this package: Tr(Sigma_W) / Tr(Sigma_B), 0 (features equal their grade's mean) up."""
    return nc1_quotient(statistics)


@metric("ONC2", of="statistics weight", ideal=0, into=BEYOND)
def onc2(statistics: ClassStatistics, weight: Tensor) -> float:
    """ONC2 (Ma et al. 2025), by this package: share of sum_q ||mu_q - mu_G||^2 off the line of w, 0 (collapse) to 1.

    ``weight`` is w (P,). mu_G is the mean of the grade means, so that a shift, which thresholds take up, is left out.
    Raises PluginError on another width, Undefined where w is zero or the means are all equal.
    """
    check_width("ONC2: weight", weight[None], statistics.num_features)
    check_finite("ONC2: weight", weight[None])
    direction, centred = weight.double(), centred_means(statistics)
    total = centred.square().sum()
    if not direction.any() or not total:
        raise Undefined("ONC2: needs a weight that is not zero and grade means that are not all equal")
    along = centred @ (direction / direction.norm())
    return float((centred.square().sum(dim=1) - along.square()).sum().clamp(min=0) / total)


@dataclass(frozen=True)
class Order:
    """ONC3 of latents z_q = w.mu_q.

    Args:
        in_order: share of neighbouring grades with z_q < z_{q+1}, 0 to 1 (collapse).
        centring: mean |z_q - (b_q + b_{q-1}) / 2| over inner grades in units of half their interval, 0 at collapse with
            a symmetric link as weight decay goes to 0; below 1 all z_q can lie within their own intervals.
    """

    in_order: float
    centring: float


@metric("ONC3 latents centred", of="statistics weight thresholds", name="onc3.centring", ideal=0, into=BEYOND)
@metric("ONC3 in order", of="statistics weight thresholds", name="onc3.in_order", ideal=1, larger=True, into=BEYOND)
def onc3(statistics: ClassStatistics, weight: Tensor, thresholds: Tensor) -> Order:
    """ONC3: latents follow the order of grades, and the middle of their thresholds b (Q - 1,) (Ma et al. 2025).

    The first and the last grade have no two thresholds and no middle. Raises PluginError where a grade is absent, with
    fewer than three, and unless there is an ascending threshold between each two.
    """
    check_width("ONC3: weight", weight[None], statistics.num_features)
    check_finite("ONC3: weight", weight[None])
    grades, cuts = statistics.num_classes, thresholds.double()
    if grades < 3 or len(present_classes(statistics)) < grades:
        raise PluginError(
            f"ONC3: needs three grades and samples of each, got {grades} with samples of"
            f" {len(present_classes(statistics))}"
        )
    if tuple(cuts.shape) != (grades - 1,) or not bool(torch.isfinite(cuts).all()) or not bool((cuts.diff() > 0).all()):
        raise PluginError(f"ONC3: needs {grades - 1} ascending thresholds of {grades} grades, got {cuts.tolist()}")
    latents = statistics.means @ weight.double()
    middles, halves = (cuts[1:] + cuts[:-1]) / 2, cuts.diff() / 2
    return Order(float((latents.diff() > 0).double().mean()), float(((latents[1:-1] - middles).abs() / halves).mean()))
