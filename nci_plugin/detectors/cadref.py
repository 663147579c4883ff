"""CARef and CADRef: how far a feature is from the mean of its predicted class (Ling et al., CVPR 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead

CADREF_PAPER = Paper(
    "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled Relative Feature Leveraging",
    "Ling et al.",
    "CVPR",
    2025,
    "https://arxiv.org/abs/2503.00325",
)


@register_detector
class CARef(Detector):
    """CARef: score = -||h - mu_c||_1 / ||h||_1, c = argmax z (Ling et al. 2025).

    mu_c is the mean of the training features that the network predicts as c, as in the authors' code. A class that it
    never predicts gets the mean of all. At h = 0, where the quotient has no value, it is taken as 1.
    """

    name = "caref"
    display = "CARef"
    paper = CADREF_PAPER
    fits_on = FitsOn.BANK

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        sums = torch.zeros_like(head.weight, dtype=torch.float64)
        counts, energies = torch.zeros_like(head.bias, dtype=torch.float64), 0.0
        for chunk in training.chunks():
            logits = chunk.logits.double()
            predicted = logits.argmax(dim=1)
            sums.index_put_((predicted,), chunk.features.double(), accumulate=True)
            counts += torch.bincount(predicted, minlength=head.num_classes)
            energies += float(torch.logsumexp(logits, dim=1).sum())
        overall = sums.sum(dim=0) / counts.sum()
        self.means_ = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], overall)
        self.energy_ = energies / len(training)
        self.weight_ = head.weight.double()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        rows, predicted = features.double(), logits.argmax(dim=1)
        length = rows.abs().sum(dim=1)
        error = (rows - self.means_.index_select(0, predicted)).abs().sum(dim=1) / length
        return in_range_of(-torch.where(length > 0, error, 1.0), like=logits)

    def _errors(self, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The parts (n,) of ||h - mu_c||_1 / ||h||_1 in which h - mu_c has the sign of w_c, and the other."""
        rows, predicted = features.double(), logits.argmax(dim=1)
        offsets, length = rows - self.means_.index_select(0, predicted), rows.abs().sum(dim=1)
        along = offsets * self.weight_.index_select(0, predicted).sign()
        parts = [part.clamp(min=0).sum(dim=1) / length for part in (along, -along)]
        return torch.where(length > 0, parts[0], 0.0), torch.where(length > 0, parts[1], 1.0)


@register_detector
class CADRef(CARef):
    """CADRef: score = -(e_+ / E(h) + e_- / E), c = argmax z (Ling et al. 2025, with energy).

    e_+ = sum_i max(0, (h - mu_c)_i sign w_ci) / ||h||_1 is the part of CARef's error along the weights of the predicted
    class, e_- that against them; E(h) = log sum_k exp(z_k), E its mean over the training samples, mu_c as in CARef. An
    E(h) of 0 and below, which the paper does not speak of, is taken as 1.2e-7 E. Needs E > 0.
    """

    name = "cadref"
    display = "CADRef"

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        super()._fit(training, head, validation)
        if self.energy_ <= 0:
            raise PluginError(
                f"detector '{self.name}': divides by the mean energy of the training samples, which must be above 0,"
                f" got {self.energy_:.3g}; leave this detector out"
            )

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        towards, against = self._errors(features, logits)
        energy = torch.logsumexp(logits.double(), dim=1)
        energy = energy.clamp(min=self.energy_ * float(torch.finfo(torch.float32).eps))
        return in_range_of(-(towards / energy + against / self.energy_), like=logits)
