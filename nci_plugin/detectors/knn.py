"""Nearest neighbours in feature space (Sun et al. 2022), alone and with NCI's norm filter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nci_plugin.checks import PluginError, check_number
from nci_plugin.detectors.base import Detector, FitsOn, Paper
from nci_plugin.detectors.nci import NCI_PAPER, add_norm
from nci_plugin.detectors.registry import register
from nci_plugin.feature_bank import FeatureSplit
from nci_plugin.head import LinearHead

QUERY_ROWS, BANK_ROWS = 512, 32768
"""Rows that are compared at once: 64 MB of similarities, whatever the number of training samples."""


@register
class KNN(Detector):
    """Score = -||f - f_(K)||_2, f = h / ||h||_2, f_(K) its K-th nearest training feature (Sun et al. 2022).

    ``K``: a whole number from 1 to the number of training samples.
    """

    name = "knn"
    paper = Paper(
        "Out-of-Distribution Detection with Deep Nearest Neighbors",
        "Sun et al.",
        "ICML",
        2022,
        "https://proceedings.mlr.press/v162/sun22d.html",
    )
    fits_on = FitsOn.BANK

    def __init__(self, K: int = 50) -> None:
        self.K = K

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': K", self.K, above=0, whole=True)

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.bank_ = torch.empty(len(training), training.num_features)
        filled = 0
        for chunk in training.chunks():
            self.bank_[filled : filled + len(chunk)] = F.normalize(chunk.features.float())
            filled += len(chunk)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return -self._distance(features)

    def _distance(self, features: Tensor) -> Tensor:
        """Distance of each row to its K-th nearest training feature, (n,) in 0..2."""
        if len(self.bank_) < self.K:
            raise PluginError(
                f"detector '{self.name}': K must be at most the {len(self.bank_)} training samples, got {self.K}"
            )
        bank = self.bank_.to(features.device)
        queries = F.normalize(features.float())
        distances = []
        for block in queries.split(QUERY_ROWS):
            kth = self._kth_neighbour(block, bank)
            # From the difference, not from 2 - 2 cos: that loses half its digits for close neighbours.
            distances.append((block - bank[kth]).norm(dim=1))
        return torch.cat(distances) if distances else queries.new_zeros(0)

    def _kth_neighbour(self, block: Tensor, bank: Tensor) -> Tensor:
        """Row of the bank that is the K-th nearest to each row of the block, (n,)."""
        similarity, index = block.new_empty(len(block), 0), torch.empty(len(block), 0, dtype=torch.long)
        index = index.to(block.device)
        for start in range(0, len(bank), BANK_ROWS):
            part = bank[start : start + BANK_ROWS]
            found = (block @ part.T).topk(min(self.K, len(part)), dim=1, sorted=False)
            similarity = torch.cat([similarity, found.values], dim=1)
            index = torch.cat([index, found.indices + start], dim=1)
            if similarity.shape[1] > self.K:
                similarity, best = similarity.topk(self.K, dim=1, sorted=False)
                index = index.gather(1, best)
        return index.gather(1, similarity.argmin(dim=1, keepdim=True))[:, 0]


@register
class KNNL1(KNN):
    """Ablation of NCI with another proximity: score = -||f - f_(K)||_2 + alpha ||h||_1 (Liu & Qin 2025).

    f = h / ||h||_2 as in KNN; the norm is that of the raw feature. ``alpha`` weighs it.
    """

    name = "knn_l1"
    paper = NCI_PAPER

    def __init__(self, K: int = 50, alpha: float = 1e-4) -> None:
        super().__init__(K)
        self.alpha = alpha

    def check_hyperparameters(self) -> None:
        super().check_hyperparameters()
        check_number(f"detector '{self.name}': alpha", self.alpha, least=0)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return add_norm(-self._distance(features), features, self.alpha, "l1")
