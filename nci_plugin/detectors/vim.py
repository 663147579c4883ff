"""ViM: a virtual logit from what lies outside the principal space (Wang et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_number
from nci_plugin.collapse.geometry import lengths
from nci_plugin.detectors.base import AUTO, FLOAT32_STEP, Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead


@register_detector
class ViM(Detector):
    """ViM: score = log sum_k exp(z_k) - alpha ||R^T (h - u)||_2, u = -pinv(W) b (Wang et al. 2022).

    R (P, P - dim) spans what is orthogonal to the ``dim`` principal directions of the training features about u, and
    alpha is the mean largest logit over the mean length ||R^T (h - u)|| of the training samples. ``dim``: a whole
    number below P, or ``auto``, the authors' rule: 1000 from P = 2048, 512 from 768, else half of P.
    """

    name = "vim"
    display = "ViM"
    paper = Paper(
        "ViM: Out-Of-Distribution with Virtual-logit Matching",
        "Wang et al.",
        "CVPR",
        2022,
        "https://openaccess.thecvf.com/content/CVPR2022/html/"
        "Wang_ViM_Out-of-Distribution_With_Virtual-Logit_Matching_CVPR_2022_paper.html",
    )
    fits_on = FitsOn.BANK
    fit_reads = ("dim",)
    per_row = "P P"

    def __init__(self, dim: int | str = AUTO) -> None:
        self.dim = dim

    def check_hyperparameters(self) -> None:
        if self.dim != AUTO:
            check_number(f"detector '{self.name}': dim", self.dim, above=0, whole=True)

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        width = head.num_features
        self.dim_ = (
            self.dim if isinstance(self.dim, int) else 1000 if width >= 2048 else 512 if width >= 768 else width // 2
        )
        if not 0 < self.dim_ < width:
            raise PluginError(f"detector '{self.name}': dim must be below the {width} features, got {self.dim_}")
        weight, bias = head.weight.double(), head.bias.double()
        self.origin_ = -torch.linalg.pinv(weight, rtol=max(weight.shape) * FLOAT32_STEP) @ bias  # weights are float32
        scatter = weight.new_zeros(width, width)
        for chunk in training.chunks():
            rows = chunk.features.double() - self.origin_
            scatter += rows.T @ rows
        variances, vectors = torch.linalg.eigh(scatter)
        self.residual_ = vectors[:, : width - self.dim_]
        largest = residual = longest = 0.0
        for chunk in training.chunks():
            rows = chunk.features.double() - self.origin_
            largest += float(chunk.logits.double().amax(dim=1).sum())
            residual += float(lengths(rows @ self.residual_).sum())
            longest += float(lengths(rows).sum())
        if residual <= FLOAT32_STEP * longest:
            raise PluginError(
                f"detector '{self.name}': the training features lie in {self.dim_} directions, so nothing is left over;"
                " give a smaller dim, or leave this detector out"
            )
        self.alpha_ = largest / residual

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        h = features.double()
        virtual = self.alpha_ * lengths((h - self.origin_) @ self.residual_)
        return in_range_of(torch.logsumexp(logits.double(), dim=1) - virtual, like=logits)

    def explain_choice(self) -> str:
        return f"dim = {self.dim_}, by the authors' rule" if self.dim == AUTO else ""
