"""NCI and its ablations (Liu & Qin, CVPR 2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.collapse.geometry import lengths
from nci_plugin.detectors.base import AUTO, FLOAT32_STEP, Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, quotient
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda rows: rows.abs().sum(dim=1),
    "l2": lengths,
    "linf": lambda rows: rows.abs().amax(dim=1),
}

NCI_PAPER = Paper(
    "Detecting Out-of-Distribution Through the Lens of Neural Collapse",
    "Liu & Qin",
    "CVPR",
    2025,
    "https://arxiv.org/abs/2311.01479",
)

AUTO_SHARES = (0.0, *(10.0 ** (step / 4) for step in range(-12, 5)))
"""What ``alpha: auto`` chooses from: 0, and 0.001 to 10 times the quotient of the spreads of pScore and norm."""

MIDPOINTS = 20_000
"""Pairs of samples, at least; so many that the choice of ``alpha: auto`` hardly depends on which are paired."""


class FeatureProximity(Detector):
    """pScore(h) = w_c . (h - mu_G) / ||h - mu_G||_2, c = argmax z (Liu & Qin 2025), in float64.

    mu_G is the mean over all training samples and c the class that the network predicts, bias included. At h = mu_G the
    direction is undefined and pScore = 0.
    """

    paper = NCI_PAPER
    fits_on = FitsOn.STATISTICS
    block_bytes = 2**20
    norm = "l1"

    def _fit(self, training: Any, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.mean_, self.weight_ = training.global_mean, head.weight.detach().double()

    def _p_score(self, features: Tensor, logits: Tensor) -> Tensor:
        weight = self.weight_.index_select(0, logits.argmax(dim=1))
        centred = features.double() - self.mean_
        return quotient((weight * centred).sum(dim=1), lengths(centred))

    def _terms(self, features: Tensor, logits: Tensor) -> Tensor:
        """The pairs (pScore, ||h||) of rows, (n, 2)."""
        return torch.stack([self._p_score(features, logits), NORMS[self.norm](features.double())], dim=1)


@register_detector
class NCI(FeatureProximity):
    """NCI: score = pScore(h) + alpha ||h||_1, h not centred in the norm (Liu & Qin 2025).

    pScore = w_c . (h - mu_G) / ||h - mu_G||_2. ``alpha`` >= 0 weighs the norm filter; the paper searches
    {1e-4, 1e-3, 1e-2, 1e-1} on OOD images. ``alpha: auto`` learns it without any, see `NCIAuto`.
    """

    name = "nci"
    display = "NCI"

    def __init__(self, alpha: float | str = 1e-4) -> None:
        self.alpha = alpha

    def check_hyperparameters(self) -> None:
        if self.alpha != AUTO:
            check_number(f"detector '{self.name}': alpha", self.alpha, least=0)

    @property
    def needs_validation(self) -> bool:
        return self.alpha == AUTO

    @property
    def memory(self) -> dict[str, float]:
        return {"V P": 40, "V K": 16} if self.needs_validation else {}

    @property
    def alpha_(self) -> float:
        """The weight of the norm: ``alpha``, or what was learned; raises PluginError if nothing could be."""
        if not isinstance(self.alpha, str):
            return self.alpha
        if self.auto_alpha_ is None:
            raise PluginError(
                f"detector '{self.name}': alpha '{AUTO}' needs an ID validation split of several classes on which the"
                " norm varies; add the split id/val, or give a number"
            )
        return self.auto_alpha_

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        super()._fit(training, head, validation)
        self.auto_alpha_ = self._balance(validation) if validation and self.needs_validation else None
        self.alpha_  # noqa: B018  raises here what the first score would raise

    def _balance(self, validation: FeatureSplit) -> float | None:
        """The alpha that tells the ID validation features best from midpoints of two of them, see `NCIAuto`.

        None where the norm does not vary, or where all of them are predicted as one class.
        """
        features, logits = validation.features, validation.logits
        terms = self._terms(features, logits)
        p_spread, norm_spread = terms.std(dim=0, correction=0).tolist()
        one, other = pairs_of_classes(logits.argmax(dim=1))
        if norm_spread <= FLOAT32_STEP * float(terms[:, 1].max()) or not len(one):
            return None
        h, z = features / 2, logits / 2  # the logits of a midpoint are the midpoint of the logits
        pairs = zip(one.split(len(h)), other.split(len(h)))
        between = torch.cat([self._terms(h[a] + h[b], z[a] + z[b]) for a, b in pairs])
        p_id, norm_id = terms.T.cpu().numpy()
        # Signed features are shorter at a midpoint, whatever their class: it is given the mean norm of its parents.
        p_ood, norm_ood = between[:, 0].cpu().numpy(), ((terms[one, 1] + terms[other, 1]) / 2).cpu().numpy()
        alphas = [share * p_spread / norm_spread for share in AUTO_SHARES]
        return max(alphas, key=lambda alpha: auroc(p_id + alpha * norm_id, p_ood + alpha * norm_ood))

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        score = self._p_score(features, logits) + self.alpha_ * NORMS[self.norm](features.double())
        return in_range_of(score, like=logits)

    def explain_choice(self) -> str:
        return f"alpha = {self.alpha_:.4g}, from the ID validation split alone" if self.alpha == AUTO else ""


@register_detector
class NCIAuto(NCI):
    """NCI without OOD images: score = pScore(h) + alpha ||h||_1 with an alpha that ID data choose (Liu & Qin 2025).

    In place of OOD images there are midpoints of two ID validation features that are predicted as different classes:
    they belong to neither, as near-OOD samples do. Of `AUTO_SHARES`, in units of the alpha at which both terms vary
    alike over ID samples (the quotient of their standard deviations), the one with the largest AUROC of the validation
    features against the midpoints is taken, the smallest of equals. Features c times as long therefore give the same
    ranking. A midpoint counts with the mean norm of the two, which it has where features are not negative; signed ones
    cancel there. Where classes have features of one length, alpha is near 0, and the score nearly pScore. The rule is
    this package's. `NCI` with ``alpha: auto`` is the same detector.
    """

    name = "nci_auto"
    display = "NCI auto"
    formula = 2

    def __init__(self, alpha: float | str = AUTO) -> None:
        super().__init__(alpha)


@register_detector
class NCIL2(NCI):
    """Ablation of NCI with the Euclidean norm: score = pScore(h) + alpha ||h||_2 (Liu & Qin 2025).

    pScore = w_c . (h - mu_G) / ||h - mu_G||_2.
    """

    name = "nci_l2"
    display = "NCI, L2 norm"
    norm = "l2"


@register_detector
class PScore(FeatureProximity):
    """Ablation of NCI without the filter: score = w_c . (h - mu_G) / ||h - mu_G||_2 (Liu & Qin 2025)."""

    name = "pscore"
    display = "pScore"

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return in_range_of(self._p_score(features, logits), like=logits)


@register_detector
class FeatureNorm(Detector):
    """Ablation of NCI with the filter alone: score = ||h||, l1 as in the paper, l2 or linf (Liu & Qin 2025)."""

    name = "feature_norm"
    display = "Feature norm"
    paper = NCI_PAPER
    block_bytes = 2**20

    def __init__(self, norm: str = "l1") -> None:
        self.norm = norm

    def check_hyperparameters(self) -> None:
        check_choice(f"detector '{self.name}': norm", self.norm, NORMS)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return feature_norm(features, self.norm)


def pairs_of_classes(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of rows that are predicted (n,) as different classes, of `MIDPOINTS` pairs drawn with seed 0."""
    generator = torch.Generator().manual_seed(0)
    rounds = [torch.randperm(len(predicted), generator=generator) for _ in range(-(-MIDPOINTS // len(predicted)))]
    one, other = torch.arange(len(predicted)).repeat(len(rounds)), torch.cat(rounds)
    apart = (predicted[one] != predicted[other]).cpu()
    return one[apart], other[apart]


def feature_norm(features: Tensor, norm: str) -> Tensor:
    """||h|| of each row of features (n, P): (n,), clipped to the largest finite number of their type."""
    return in_range_of(NORMS[norm](features.double()), like=features)
