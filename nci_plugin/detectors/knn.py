"""Nearest neighbours in feature space (Sun et al. 2022), alone and with NCI's norm filter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_number
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.detectors.nci import NCI_PAPER, add_norm
from nci_plugin.detectors.registry import register
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import unit_rows
from nci_plugin.files import digest
from nci_plugin.networks.head import LinearHead

QUERY_ROWS, BANK_ROWS = 1024, 16384
"""Rows that are compared at once: 64 MB of similarities, whatever the number of training samples."""

LENGTHS = 1e-12, 1e18
"""Between these float32 gives a row's length: the squares of its large values neither vanish nor overflow."""


@register
class KNN(Detector):
    """Score = -||f - f_(K)||_2, f = h / ||h||_2, f_(K) its K-th nearest training feature (Sun et al. 2022).

    ``K``: a whole number from 1 to the number of training samples. The training features stay where they are stored
    and are read block by block, once for all rows that are scored together.
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
    magnitude = 1.0

    def __init__(self, K: int = 50) -> None:
        self.K = K

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': K", self.K, above=0, whole=True)

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.training_ = training

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return -self._distance(features)

    def _distance(self, features: Tensor) -> Tensor:
        """Distance of each row to its K-th nearest training feature, (n,) in 0..2."""
        if len(self.training_) < self.K:
            raise PluginError(
                f"detector '{self.name}': K must be at most the {len(self.training_)} training samples, got {self.K}"
            )
        queries = _directions(features)
        # From the difference, not from 2 - 2 cos: that loses half its digits for close neighbours.
        return (queries - self._training_rows(self._kth_neighbour(queries.detach()))).norm(dim=1)

    def _kth_neighbour(self, queries: Tensor) -> Tensor:
        """Row of the training set that is the K-th nearest to each query, (n,); reads the training set once."""
        nearest = [_Nearest.none(block) for block in queries.split(QUERY_ROWS)]
        start, memory = 0, queries.new_empty(min(QUERY_ROWS, len(queries)) * min(BANK_ROWS, len(self.training_)))
        for bank in self._blocks(queries):
            nearest = [found.among(bank, start, self.K, memory) for found in nearest]
            start += len(bank)
        return torch.cat([found.kth() for found in nearest])

    def _blocks(self, like: Tensor) -> Iterator[Tensor]:
        """The normalised training set in order, up to BANK_ROWS rows at a time, in one piece of memory."""
        block, filled = like.new_empty(min(BANK_ROWS, len(self.training_)), self.training_.num_features), 0
        for chunk in self.training_.chunks(BANK_ROWS):
            if filled + len(chunk) > len(block):
                yield block[:filled]
                filled = 0
            _directions(chunk.features.to(block.device), out=block[filled : filled + len(chunk)])
            filled += len(chunk)
        yield block[:filled]

    def _training_rows(self, index: Tensor) -> Tensor:
        """Rows (n, P) of the normalised training set, read from where they are stored."""
        rows = index.new_empty(len(index), self.training_.num_features, dtype=self.training_.shards[0].features.dtype)
        first = 0
        for shard in self.training_.shards:
            here = (index >= first) & (index < first + len(shard))
            rows[here] = shard.features[(index[here] - first).to(shard.features.device)].to(rows)
            first += len(shard)
        return _directions(rows)


def _directions(features: Tensor, out: Tensor | None = None) -> Tensor:
    """h / ||h||_2 of features (n, P), in float32, put into ``out`` if given; a row of zeros stays as it is."""
    rows = features.float()
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit = torch.div(rows, length, out=out)
    unsafe = ~((length > LENGTHS[0]) & (length < LENGTHS[1]))[:, 0]
    if unsafe.any():
        unit[unsafe] = unit_rows(features[unsafe]).float()
    return unit


@dataclass(frozen=True)
class _Nearest:
    """The nearest rows that were found for a block of queries so far: similarities and row numbers (n, up to K)."""

    queries: Tensor
    similarity: Tensor
    index: Tensor

    @classmethod
    def none(cls, queries: Tensor) -> _Nearest:
        empty = queries.new_empty(len(queries), 0)
        return cls(queries, empty, empty.long())

    def among(self, bank: Tensor, start: int, K: int, memory: Tensor) -> _Nearest:
        """The K nearest (or all, if there are fewer) of these and the rows of ``bank``, whose first is ``start``.

        ``memory`` is where all similarities are put: made anew for each block, they would leave holes.
        """
        shape = len(self.queries), len(bank)
        similarities = torch.mm(self.queries, bank.T, out=memory[: math.prod(shape)].view(shape))
        found = similarities.topk(min(K, len(bank)), dim=1, sorted=False)
        similarity = torch.cat([self.similarity, found.values], dim=1)
        index = torch.cat([self.index, found.indices + start], dim=1)
        if similarity.shape[1] > K:
            similarity, best = similarity.topk(K, dim=1, sorted=False)
            index = index.gather(1, best)
        return _Nearest(self.queries, similarity, index)

    def kth(self) -> Tensor:
        """Row number of the farthest of them, (n,)."""
        return self.index.gather(1, self.similarity.argmin(dim=1, keepdim=True))[:, 0]


@register
class KNNL1(KNN):
    """Ablation of NCI with another proximity: score = -||f - f_(K)||_2 + alpha ||h||_1 (Liu & Qin 2025).

    f = h / ||h||_2 as in KNN; the norm is that of the raw feature. ``alpha`` weighs it.
    """

    name = "knn_l1"
    paper = NCI_PAPER
    caches = ("distances_",)  # what it keeps of samples that it scored: no part of what it learned

    def __init__(self, K: int = 50, alpha: float = 1e-4) -> None:
        super().__init__(K)
        self.alpha = alpha

    def check_hyperparameters(self) -> None:
        super().check_hyperparameters()
        check_number(f"detector '{self.name}': alpha", self.alpha, least=0)

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        super()._fit(training, head, validation)
        self.distances_: dict[tuple[int, str], Tensor] = {}

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return add_norm(-self._distance(features), features, self.alpha, "l1")

    def _distance(self, features: Tensor) -> Tensor:
        """As of KNN, kept by K and the hash of the features: a search of ``alpha`` looks for each neighbour once."""
        key = self.K, digest(features.detach().float().cpu().numpy().tobytes())
        if key not in self.distances_:
            self.distances_[key] = super()._distance(features)
        return self.distances_[key]
