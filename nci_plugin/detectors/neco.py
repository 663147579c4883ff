"""NECO (Ammar et al., ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_choice
from nci_plugin.detectors.base import AUTO, Detector, Paper
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

NO_MAX_LOGIT = "resnet"
"""Part of the class names of networks for which the authors' code does not multiply by the largest logit."""

RAW_NORM = ("deit", "swin")
"""Parts of the names of those for which it divides by the length of the raw feature."""


@register_detector
class NECO(Detector):
    """NECO: score = ||P_d v||_2 / ||u||_2, times max_k z_k unless the network is a ResNet (Ammar et al. 2024).

    v is the standardised feature and P_d projects on the first d principal components of the training features; u is
    v, but the raw feature h for DeiT and Swin and where nothing is standardised. The equation in the paper has neither
    the scaler nor the factor; its tables come from the authors' code, whose rules are the defaults here. Scaler and
    components follow from the mean and the covariance, so no training feature is kept.

    What the network is, the head says (`architecture_of`). A class for ViTs, torchvision's say, may hold the weights of
    a DeiT: only ``raw_norm`` can tell that. `explain_choice` says what was decided, and for what.

    Args:
        dim: number of components d, or the share of the training variance that they explain, between 0 and 1. The
            default is the smallest d with 90 %; the published tables chose d on the test OOD sets.
        scale: standardise the features; the authors leave it out for CIFAR ViTs, and then u is the raw feature h.
        max_logit: multiply by the largest logit; ``auto`` = unless the network's class name says ResNet.
        raw_norm: u is the raw feature h; ``auto`` = if nothing is standardised, or the network's class name or timm's
            name of its architecture says DeiT or Swin.
    """

    name = "neco"
    display = "NECO"
    paper = Paper(
        "NECO: NEural Collapse Based Out-of-distribution detection",
        "Ammar et al.",
        "ICLR",
        2024,
        "https://arxiv.org/abs/2310.06823",
    )
    fits_on = FitsOn.STATISTICS
    fit_reads = ("dim", "scale", "max_logit", "raw_norm")
    raw_norm: bool | str = AUTO  # of an object that was pickled before there was this option
    per_row = "P P"

    def __init__(
        self,
        dim: int | float = 0.9,
        scale: bool = True,
        max_logit: bool | str = AUTO,
        raw_norm: bool | str = AUTO,
    ) -> None:
        self.dim = dim
        self.scale = scale
        self.max_logit = max_logit
        self.raw_norm = raw_norm

    def check_hyperparameters(self) -> None:
        share = isinstance(self.dim, float) and 0 < self.dim < 1
        count = isinstance(self.dim, int) and not isinstance(self.dim, bool) and self.dim >= 1
        if not share and not count:
            raise PluginError(
                f"detector '{self.name}': dim must be a whole number >= 1, or a share of the variance between 0 and 1,"
                f" got {self.dim!r}"
            )
        check_choice(f"detector '{self.name}': scale", self.scale, (True, False))
        check_choice(f"detector '{self.name}': max_logit", self.max_logit, (AUTO, True, False))
        check_choice(f"detector '{self.name}': raw_norm", self.raw_norm, (AUTO, True, False))

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        covariance = training.covariance
        deviation = covariance.diagonal().sqrt()
        # A feature that never varies is left as it is, as scikit-learn's StandardScaler does.
        deviation = torch.where(deviation > 0, deviation, 1.0) if self.scale else torch.ones_like(deviation)
        variances, components = torch.linalg.eigh(covariance / deviation.outer(deviation))
        shares = variances.flip(0).clamp(min=0).cumsum(0)
        if isinstance(self.dim, float):
            self.dim_ = int((shares < self.dim * shares[-1]).sum()) + 1
        elif self.dim <= head.num_features:
            self.dim_ = self.dim
        else:
            raise PluginError(
                f"detector '{self.name}': dim must be at most the {head.num_features} features, got {self.dim}"
            )
        self.explained_ = float(shares[self.dim_ - 1] / shares[-1]) if shares[-1] > 0 else 1.0
        self.mean_, self.deviation_ = training.global_mean, deviation
        self.components_ = components.flip(1)[:, : self.dim_].contiguous()  # a view would keep all of them
        network, names = head.network.lower(), f"{head.network} {head.architecture}".lower()
        is_raw = not self.scale or any(family in names for family in RAW_NORM)
        self.max_logit_ = NO_MAX_LOGIT not in network if self.max_logit == AUTO else bool(self.max_logit)
        self.raw_norm_ = is_raw if self.raw_norm == AUTO else bool(self.raw_norm)
        self.network_ = head.network and f"{head.network}{head.architecture and f' ({head.architecture})'}"

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        scaled = (features - self.mean_.to(features)) / self.deviation_.to(features)
        length = (features if self.raw_norm_ else scaled).norm(dim=1)
        inside = (scaled @ self.components_.to(features)).norm(dim=1)
        score = torch.where(length > 0, inside / length, 0.0)  # the mean itself has no direction
        return score * logits.amax(dim=1) if self.max_logit_ else score

    def explain_choice(self) -> str:
        factor = "times" if self.max_logit_ else "without"
        length = "raw" if self.raw_norm_ else "standardised"
        undecided = [name for name in ("max_logit", "raw_norm") if getattr(self, name) == AUTO]
        reason = f" for {self.network_}" if undecided else ""
        if undecided and not self.network_:
            reason = f" (the network's architecture is not known: set {' and '.join(undecided)})"
        share = f"{100 * self.explained_:.1f} % of the training variance"
        return f"d = {self.dim_} explains {share}, {factor} max logit, length of the {length} feature{reason}"
