"""NCI+, a detector of this package: pScore judged within the predicted class, and of the norm only a low one.

It is not the method of the NCI paper, which compares samples of all classes on one scale and lets the norm grow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import lengths
from nci_plugin.detectors.base import FLOAT32_STEP, Paper, in_range_of
from nci_plugin.detectors.nci import FeatureProximity
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead


@register_detector
class NCIPlus(FeatureProximity):
    """NCI+: score = u - log(1 + exp(-v - 1/2)), u = pScore and v = ||h||_1, standardised by the training samples.

    u = (pScore - m_c) / s, with m_c the mean over the training samples that are predicted as class c and s the
    standard deviation within those groups, pooled. v = (||h||_1 - mean) / deviation of all of them: a class that is
    rare in training has short features, by which an OOD sample that falls to it would be excused. No hyper-parameter
    and no OOD image (nci_plugin 2026, after Liu & Qin 2025). It is a log-likelihood ratio, up to a constant: ID samples
    have normal u and v of variance 1; an OOD sample has a pScore one deviation lower, and a norm one deviation lower
    or, as likely, an ID sample's. So the norm's term is at most 0: a low norm counts against a sample, a high one
    hardly for it.

    A class that training predicts rarely has no mean of its own to trust: m_c is shrunk toward the mean of all, by the
    share that sampling noise has in the spread of the class means (empirical Bayes, Morris 1983); a class that is
    never predicted gets the mean of all. Two passes over the features, none over the images: mu_G, then u and v.
    """

    name = "nci_plus"
    display = "NCI+"
    paper = Paper(
        "NCI+: pScore judged within the predicted class, and of the norm only a low one",
        "nci_plugin, after Liu & Qin",
        "this package",
        2026,
        "https://arxiv.org/abs/2311.01479",
    )
    fits_on = FitsOn.BANK

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        sums = torch.stack([chunk.features.sum(dim=0, dtype=torch.float64) for chunk in training.chunks()])
        self.mean_, self.weight_ = sums.sum(dim=0) / len(training), head.weight.detach().double()
        terms = ClassStatistics(head.num_classes, 2, head.weight.device)
        for chunk in training.chunks():
            terms.update(self._terms(chunk.features, chunk.logits), chunk.logits.argmax(dim=1))
        within = terms.within_scatter.diagonal() / terms.num_samples
        p_means, norm_mean = shrunk_means(terms, within)[:, 0], terms.global_mean[1]
        self.centres_ = torch.stack([p_means, norm_mean.expand_as(p_means)], dim=1)  # of pScore and norm, (K, 2)
        deviations = torch.stack([within[0], terms.covariance[1, 1]]).sqrt()
        rounding = FLOAT32_STEP * torch.stack([lengths(self.weight_).max(), norm_mean])
        self.deviations_ = torch.where(deviations > rounding, deviations, 1.0)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        offsets = self._terms(features, logits) - self.centres_.index_select(0, logits.argmax(dim=1))
        u, v = (offsets / self.deviations_).unbind(dim=1)
        x = -v - 0.5
        return in_range_of(u - x.clamp(min=0) - torch.log1p(torch.exp(-x.abs())), like=logits)  # exp(x) might overflow


def shrunk_means(terms: ClassStatistics, variances: Tensor) -> Tensor:
    """Class means (K, d) of d numbers, shrunk toward the mean of all; ``variances`` (d,) are those within classes.

    Each class keeps n_k / (n_k + variance / spread) of its offset, where spread is the variance of the true means:
    that of the means that are there, less what sampling adds to it.
    """
    there = terms.counts > 0
    offsets = terms.means - terms.global_mean
    noise = variances * (1 / terms.counts[there]).mean()
    spread = (offsets[there].square().mean(dim=0) - noise).clamp(min=0)
    counts = terms.counts[:, None]
    kept = torch.where(there[:, None], counts * spread / (counts * spread + variances), 0.0)
    return terms.global_mean + torch.nan_to_num(kept) * torch.where(there[:, None], offsets, 0.0)
