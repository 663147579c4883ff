"""Scores as a graph: each detector's equation without a branch on data, for one nn.Module that can be exported.

A detector is taken as it is, but for those that go through their bank in blocks (KNN, NNGuide) or take long for one
image (ORA, NCI-G), which are written down here once more, in float64, so that no shorter form that could cancel is
needed. The tests compare all with the detectors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nci_plugin.checks import PluginError
from nci_plugin.collapse.geometry import lengths
from nci_plugin.deploy.state import is_learned
from nci_plugin.detectors.base import Detector
from nci_plugin.detectors.knn import KNN, KNNL1
from nci_plugin.detectors.nci_gated import TAIL, NCIGated
from nci_plugin.detectors.nnguide import NNGuide
from nci_plugin.detectors.ora import ORA
from nci_plugin.features.statistics import SMALLEST, quotient, unit_rows

TAIL_FROM, LEVELS = -3.0, 12
"""Where float32 no longer gives 1 + erf, and steps of a continued fraction that gives its logarithm to 1e-6 there."""


class Plain(nn.Module):
    """A detector's own ``_score``, with what it learned as buffers."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self._detector = copy.copy(detector)
        for name, value in vars(detector).items():
            if is_learned(name) and isinstance(value, Tensor):
                self.register_buffer(name, value.clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        vars(self._detector).update(self._buffers)  # which a move or an export puts others in the place of
        return self._detector._score(features, logits)


class Gated(nn.Module):
    """NCI-G, see `NCIGated`, with what depends on the class alone made before. Behind a network, whose weights fill the
    caches, the time goes by the kinds of operations more than by their number. ``portable`` makes the logarithms of
    what every runtime has.
    """

    portable = False
    centre: Tensor
    factor: Tensor
    origin: Tensor
    weight: Tensor
    directions: Tensor
    units: Tensor

    def __init__(self, detector: NCIGated) -> None:
        super().__init__()
        self.deviations, self.means = detector.deviations_.tolist(), (detector.means_ / detector.deviations_).tolist()
        directions = detector.directions_
        for name, values in {
            "centre": detector.centre_,
            "factor": detector.factor_,
            "origin": -detector.mean_ @ detector.factor_,
            "weight": detector.weight_ / self.deviations[0],
            "directions": directions,
            "units": unit_rows(directions) / self.deviations[1],
        }.items():
            self.register_buffer(name, values.clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        own, dot = logits.argmax(dim=1), torch.linalg.vecdot
        features = features.double()
        h = features - self.centre
        x = torch.addmm(self.origin, unit_rows(features), self.factor)
        p_score = quotient(dot(h, self.weight.index_select(0, own)), lengths(h)) - self.means[0]
        cosine = quotient(dot(x, self.units.index_select(0, own)), lengths(x)) - self.means[1]
        offsets = x - self.directions.index_select(0, own)
        distance = dot(offsets, offsets) / -self.deviations[2] - self.means[2]
        log_p = _log_normal if self.portable else torch.special.log_ndtr
        return (log_p(p_score) + log_p(cosine)) / 2 + (log_p(distance) - math.log(TAIL)).clamp(max=0)


def _log_normal(z: Tensor) -> Tensor:
    """log Phi(z) without an error function in float64: that in float32, and below -3 Laplace's continued fraction."""
    x = (-z).clamp(min=-TAIL_FROM)
    fraction = x
    for level in range(LEVELS, 0, -1):
        fraction = x + level / fraction
    tail = -x.square() / 2 - math.log(2 * math.pi) / 2 - fraction.log()
    middle = (0.5 * (1 + torch.erf(z.clamp(min=TAIL_FROM).float() / math.sqrt(2)))).log()
    return torch.where(z < TAIL_FROM, tail, middle.double())


class Neighbour(nn.Module):
    """-||f - f_(K)||_2, f = h / ||h||_2 (Sun et al. 2022), and alpha ||h||_1 of its ablation (Liu & Qin 2025)."""

    bank: Tensor

    def __init__(self, detector: KNN) -> None:
        super().__init__()
        self.K, self.alpha = detector.K, float(detector.alpha) if isinstance(detector, KNNL1) else 0.0
        if len(detector.training_) < self.K:
            raise PluginError(f"detector '{detector.name}': K is {self.K}, it keeps {len(detector.training_)} features")
        self.register_buffer("bank", unit_rows(detector.training_.features).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        features = features.double()
        length = features.norm(dim=1, keepdim=True)
        unit = torch.where(length > 0, features / length.clamp(min=SMALLEST), features)
        nearest = (unit.float() @ self.bank.T).topk(self.K, dim=1).indices[:, self.K - 1]
        distance = (unit - self.bank[nearest].double()).norm(dim=1)
        return self.alpha * features.abs().sum(dim=1) - distance if self.alpha else -distance


class Angle(nn.Module):
    """max_{k != c} angle(h - mu, h_k - mu) (Demirel et al. 2025), as in `ORA`, by fewer operations.

    ``portable`` takes the arctangents in float32, as onnxruntime has no other.
    """

    portable = False
    mean: Tensor
    weight: Tensor
    mean_logits: Tensor
    inverse: Tensor

    def __init__(self, detector: ORA) -> None:
        super().__init__()
        for name in ("mean", "weight", "mean_logits"):
            self.register_buffer(name, getattr(detector, f"{name}_").clone())
        gaps = detector.gaps_  # 0 where there is no boundary, whose angle is then made of zeros
        self.register_buffer("inverse", torch.where(gaps > 0, 1 / gaps, 0.0))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        centred, own = features.double() - self.mean, logits.argmax(dim=1)
        exact, inverse = linear(centred, self.weight, self.mean_logits), self.inverse.index_select(0, own)
        to_boundary = (exact.gather(1, own[:, None]) - exact) * inverse
        boundary = (self.mean_logits - self.mean_logits.index_select(0, own)[:, None]) * inverse
        across = to_boundary + boundary
        square = torch.linalg.vecdot(centred, centred)[:, None]
        along = torch.addcmul(square, across, across, value=-1).clamp(min=0)
        y, x = along.sqrt() * to_boundary.abs(), torch.addcmul(along, across, boundary)
        if self.portable:
            size = torch.maximum(y, x.abs()).clamp(min=SMALLEST)
            y, x = (y / size).float(), (x / size).float()
        return torch.atan2(y, x).amax(dim=1)


class Guided(nn.Module):
    """E(h) mean_{j of the K largest} E(h_j) f_j . f, f = h / ||h||_2 (Park et al. 2023)."""

    bank: Tensor

    def __init__(self, detector: NNGuide) -> None:
        super().__init__()
        self.K = detector.K
        self.register_buffer("bank", detector.guides_.clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        nearest = (unit_rows(features) @ self.bank.T).topk(self.K, dim=1).values.mean(dim=1)
        return torch.logsumexp(logits.double(), dim=1) * nearest


GRAPHS: dict[type[Detector], Callable[[Any], nn.Module]] = {
    KNN: Neighbour,
    KNNL1: Neighbour,
    NCIGated: Gated,
    NNGuide: Guided,
    ORA: Angle,
}
"""Not of what is derived from one of these, which may score by another equation."""


def graph_of(detector: Detector) -> nn.Module:
    """The module (features (n, P), logits (n, K)) -> scores (n,), both in float32, of a fitted detector."""
    return GRAPHS.get(type(detector), Plain)(detector)
