"""NCI and its ablations (Liu & Qin, CVPR 2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.detectors.base import FLOAT32_STEP, Detector, Paper
from nci_plugin.detectors.registry import register
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda rows: rows.abs().sum(dim=1),
    "l2": lambda rows: torch.linalg.vector_norm(rows, dim=1),
    "linf": lambda rows: rows.abs().amax(dim=1),
}

NCI_PAPER = Paper(
    "Detecting Out-of-Distribution Through the Lens of Neural Collapse",
    "Liu & Qin",
    "CVPR",
    2025,
    "https://arxiv.org/abs/2311.01479",
)

AUTO = "auto"
"""The value of ``alpha`` that NCI learns from the ID validation split."""

AUTO_SHARES = (0.0, *(10.0 ** (step / 4) for step in range(-12, 5)))
"""What ``alpha: auto`` chooses from: 0, and 0.001 to 10 times the quotient of the spreads of pScore and norm."""

MIDPOINTS = 20_000
"""Pairs of samples, at least; so many that the choice of ``alpha: auto`` hardly depends on which are paired."""

BLOCK_BYTES = 2**21
"""Size of a block of features whose temporary copies stay in a core's cache."""

CANCELLATION_LIMIT = 16.0
"""Where the terms of a logit are this much larger than what is left of them, float32 no longer gives pScore to 1e-5."""

SQUARES_FROM, SQUARES_TO = 1e-18, 1e18
"""Lengths whose squares neither vanish nor overflow in float32."""


class FeatureProximity(Detector):
    """pScore(h) = w_c . (h - mu_G) / ||h - mu_G||_2, c = argmax z (Liu & Qin 2025).

    mu_G is the mean over all training samples and c the class that the network predicts, bias included. Since
    w_c . h = z_c - b_c is already in the logits, the score needs the largest logit and one norm, no row of W:
    pScore = (z_c - b_c - w_c . mu_G) / ||h - mu_G||_2. At h = mu_G the direction is undefined and pScore = 0.
    """

    paper = NCI_PAPER
    fits_on = FitsOn.STATISTICS

    def _fit(self, training: Any, head: LinearHead, validation: FeatureSplit | None) -> None:
        self._centre_on(training.global_mean, head)

    def _centre_on(self, mean: Tensor, head: LinearHead) -> None:
        """Learn what pScore needs of mu_G (P,) and the head."""
        weight = head.weight.double()
        self.head_ = head
        self.mean_ = mean
        self.offsets_ = head.bias.double() + weight @ mean  # what to subtract from z_c, (K,)
        self.largest_weight_ = float(weight.norm(dim=1).max())
        self.largest_offset_ = self.largest_weight_ * float(mean.norm()) + float(head.bias.abs().max())

    def _p_score(self, features: Tensor, logits: Tensor) -> Tensor:
        mean = self.mean_.to(features)
        largest, predicted = logits.max(dim=1)
        distance = by_blocks(lambda rows: torch.linalg.vector_norm(rows - mean, dim=1), features)
        product = largest - self.offsets_.to(logits)[predicted]
        score = product / distance
        # The terms that the logit was summed from, against the larger of the two numbers that the score is made of.
        terms = self.largest_offset_ + self.largest_weight_ * distance
        safe = terms < CANCELLATION_LIMIT * torch.maximum(distance, product.abs())
        unsafe = ~(safe & (distance > SQUARES_FROM) & (distance < SQUARES_TO))
        if unsafe.any():
            score[unsafe] = self._p_score_by_definition(features[unsafe], predicted[unsafe]).to(score)
        return score

    def _terms(self, features: Tensor, logits: Tensor, norm: str = "l1") -> Tensor:
        """The pairs (pScore, ||h||) of rows, (n, 2) in float64 on the CPU, free of the rounding of the logits."""
        features = features.cpu().double()
        p_score = self._p_score_by_definition(features, logits.argmax(dim=1))
        return torch.stack([p_score, feature_norm(features, norm)], dim=1)

    def _p_score_by_definition(self, features: Tensor, predicted: Tensor) -> Tensor:
        """The textbook form in float64, for the rows in which the short one cancels or overflows."""
        centred = features.cpu().double() - self.mean_
        weight = self.head_.weight.double()[predicted.cpu()]
        length = centred.norm(dim=1)
        return torch.where(length == 0, 0.0, (weight * centred).sum(dim=1) / length)


@register
class NCI(FeatureProximity):
    """NCI: score = pScore(h) + alpha ||h||_1, h not centred in the norm (Liu & Qin 2025).

    pScore = w_c . (h - mu_G) / ||h - mu_G||_2. ``alpha`` >= 0 weighs the norm filter; the paper searches
    {1e-4, 1e-3, 1e-2, 1e-1} on OOD images. ``alpha: auto`` learns it without any, see `NCIAuto`.
    """

    name = "nci"
    norm = "l1"

    def __init__(self, alpha: float | str = 1e-4) -> None:
        self.alpha = alpha

    def check_hyperparameters(self) -> None:
        if self.alpha != AUTO:
            check_number(f"detector '{self.name}': alpha", self.alpha, least=0)

    @property
    def needs_validation(self) -> bool:
        return self.alpha == AUTO

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
        self.auto_alpha_ = self._balance(validation) if validation is not None and self.needs_validation else None
        self.alpha_  # noqa: B018  raises here what the first score would raise

    def _balance(self, validation: FeatureSplit) -> float | None:
        """The alpha that tells the ID validation features best from midpoints of two of them, see `NCIAuto`.

        None where there are none, where the norm does not vary, or where all of them are predicted as one class.
        """
        if not len(validation):
            return None
        features, logits = validation.features, validation.logits
        terms = self._terms(features, logits, self.norm)
        p_spread, norm_spread = terms.std(dim=0, correction=0).tolist()
        one, other = pairs_of_classes(logits.argmax(dim=1))
        if norm_spread <= FLOAT32_STEP * float(terms[:, 1].max()) or not len(one):
            return None
        h, z = features / 2, logits / 2  # the logits of a midpoint are the midpoint of the logits
        pairs = zip(one.split(len(h)), other.split(len(h)))
        between = torch.cat([self._terms(h[a] + h[b], z[a] + z[b], self.norm) for a, b in pairs])
        p_id, norm_id = terms.T.numpy()
        # Signed features are shorter at a midpoint, whatever their class: it is given the mean norm of its parents.
        p_ood, norm_ood = between[:, 0].numpy(), ((terms[one, 1] + terms[other, 1]) / 2).numpy()
        alphas = [share * p_spread / norm_spread for share in AUTO_SHARES]
        return max(alphas, key=lambda alpha: auroc(p_id + alpha * norm_id, p_ood + alpha * norm_ood))

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return add_norm(self._p_score(features, logits), features, self.alpha_, self.norm)

    def explain_choice(self) -> str:
        return f"alpha = {self.alpha_:.4g}, from the ID validation split alone" if self.alpha == AUTO else ""


@register
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
    formula = 2

    def __init__(self, alpha: float | str = AUTO) -> None:
        super().__init__(alpha)


@register
class NCIL2(NCI):
    """Ablation of NCI with the Euclidean norm: score = pScore(h) + alpha ||h||_2 (Liu & Qin 2025).

    pScore = w_c . (h - mu_G) / ||h - mu_G||_2.
    """

    name = "nci_l2"
    norm = "l2"


@register
class PScore(FeatureProximity):
    """Ablation of NCI without the filter: score = w_c . (h - mu_G) / ||h - mu_G||_2 (Liu & Qin 2025)."""

    name = "pscore"

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return self._p_score(features, logits)


@register
class FeatureNorm(Detector):
    """Ablation of NCI with the filter alone: score = ||h||, l1 as in the paper, l2 or linf (Liu & Qin 2025)."""

    name = "feature_norm"
    paper = NCI_PAPER

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
    return add_norm(torch.zeros(len(features), dtype=features.dtype, device=features.device), features, 1.0, norm)


def by_blocks(length: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """``length`` (n,) of the rows of features (n, P); on the CPU in blocks whose temporary copies stay in its cache."""
    rows = max(1, BLOCK_BYTES // (features.element_size() * max(1, features.shape[1])))
    if features.device.type != "cpu" or len(features) <= rows:
        return length(features)
    return torch.cat([length(block) for block in features.split(rows)])


def add_norm(scores: Tensor, features: Tensor, alpha: float, norm: str) -> Tensor:
    """scores + alpha ||h||, finite: a sum beyond the range of the type is clipped to its largest number."""
    length = by_blocks(NORMS[norm], features)
    total = scores + alpha * length
    overflown = torch.isinf(length)
    if overflown.any():
        exact = scores[overflown].cpu().double() + alpha * NORMS[norm](features[overflown].cpu().double())
        total[overflown] = exact.to(total)
    limit = torch.finfo(scores.dtype).max
    return total.clamp_(-limit, limit)
