"""Nearest neighbours in feature space (Sun et al. 2022), alone and with NCI's norm filter."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.nci import NCI_PAPER
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.files import digest
from nci_plugin.networks.head import LinearHead

QUERY_ROWS, BANK_ROWS = 1024, 16384
"""Rows that are compared at once: 64 MB of similarities, whatever the number of training samples."""

SMALL, LARGE = 1e-15, 1e15
"""A row whose length lies between has squares that neither vanish nor overflow in float32."""

BLOCKS, FAISS = "blocks", "faiss"
"""How neighbours are looked for: by products of blocks, on any device, or in an exact index of faiss, on the CPU."""

KEPT = 64
"""Sets of rows, of 4096 each, whose distances are kept while ``alpha`` is searched: more than validation has."""


@register_detector
class KNN(Detector):
    """Score = -||f - f_(K)||_2, f = h / ||h||_2, f_(K) its K-th nearest training feature (Sun et al. 2022).

    ``K``: a whole number from 1 to the number of training samples. The training features stay where they are stored
    and are read block by block, once for all rows that are scored together. With ``index`` = ``faiss`` they are held in
    memory by that library (Johnson et al. 2019), whose exact search gives the same neighbours but for ties.
    """

    name = "knn"
    display = "KNN"
    paper = Paper(
        "Out-of-Distribution Detection with Deep Nearest Neighbors",
        "Sun et al.",
        "ICML",
        2022,
        "https://proceedings.mlr.press/v162/sun22d.html",
    )
    fits_on = FitsOn.BANK
    magnitude = 1.0
    per_row = "N P"
    _index: tuple[FeatureSplit, Any] | None = None

    def __init__(self, K: int = 50, index: str = BLOCKS) -> None:
        self.K, self.index = K, index

    @property
    def memory(self) -> dict[str, float]:
        held = {"N P": 12.0} if self.index == FAISS else {}  # its vector doubles as it grows, and is copied then
        return {"P": 12 * BANK_ROWS, "": 8 * QUERY_ROWS * BANK_ROWS, **held}

    def get_hyperparameters(self) -> dict[str, Any]:
        """Without ``index`` where it is the usual one: it is no part of the equation."""
        return {name: value for name, value in super().get_hyperparameters().items() if value != BLOCKS}

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': K", self.K, above=0, whole=True)
        check_choice(f"detector '{self.name}': index", self.index, (BLOCKS, FAISS))
        if self.index == FAISS and find_spec("faiss") is None:
            raise PluginError(
                f"detector '{self.name}': index {FAISS} needs that library, which is not installed;"
                f" pip install 'nci_plugin[faiss]', or choose index {BLOCKS}"
            )

    @property
    def least_training(self) -> int:
        return self.K

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.training_ = training.to(None)  # where it is stored

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return -self._distance(features)

    def _distance(self, features: Tensor) -> Tensor:
        """Distance of each row to its K-th nearest training feature, (n,) in 0..2."""
        if len(self.training_) < self.K:
            raise PluginError(
                f"detector '{self.name}': K must be at most the {len(self.training_)} training samples, got {self.K}"
            )
        queries = directions(features)
        neighbours = directions(self._training_rows(self._kth_neighbour(queries.detach())).to(queries.device))
        # From the difference, not from 2 - 2 cos: that loses half its digits for close neighbours.
        return (queries - neighbours).norm(dim=1)

    def _kth_neighbour(self, queries: Tensor) -> Tensor:
        """Row of the training set that is the K-th nearest to each of the directions (n, P): (n,), on the CPU.

        The training set is read once, and of what was read only the K nearest of each query are kept.
        """
        if self.index == FAISS:
            return torch.from_numpy(self._indexed().search(queries.cpu().numpy(), self.K)[1][:, self.K - 1])
        blocks, start = queries.split(QUERY_ROWS), 0
        nearest = [(block.new_empty(len(block), 0), block.new_empty(len(block), 0).long()) for block in blocks]
        for bank in self._blocks(queries.device):
            bank, lengths = _with_lengths(bank)
            for number, (block, (cosines, rows)) in enumerate(zip(blocks, nearest)):
                found = (block @ bank.T).div_(lengths).topk(min(self.K, len(bank)), dim=1, sorted=False)
                cosines = torch.cat([cosines, found.values], dim=1)
                rows = torch.cat([rows, found.indices + start], dim=1)
                if cosines.shape[1] > self.K:
                    cosines, best = cosines.topk(self.K, dim=1, sorted=False)
                    rows = rows.gather(1, best)
                nearest[number] = cosines, rows
            start += len(bank)
        farthest = [rows.gather(1, cosines.argmin(dim=1, keepdim=True))[:, 0] for cosines, rows in nearest]
        return torch.cat(farthest).cpu()

    def _indexed(self) -> Any:
        """The directions of the training set in an index of faiss, made when it is first asked for."""
        import faiss

        if self._index is None or self._index[0] is not self.training_:
            index = faiss.IndexFlatIP(self.training_.num_features)
            for bank in self._blocks(torch.device("cpu")):
                index.add(directions(bank).numpy())
            self._index = self.training_, index
        return self._index[1]

    def _blocks(self, device: torch.device) -> Iterator[Tensor]:
        """The training set in order, up to BANK_ROWS rows at a time, whatever the shards' size."""
        parts: list[Tensor] = []
        for chunk in self.training_.chunks(BANK_ROWS):
            if sum(map(len, parts)) + len(chunk) > BANK_ROWS:
                yield _joined(parts)
                parts = []
            parts.append(chunk.features.float().to(device))
        yield _joined(parts)

    def _training_rows(self, index: Tensor) -> Tensor:
        """Rows (n, P) of the training set, read from where they are stored."""
        rows = torch.empty(len(index), self.training_.num_features, dtype=torch.float32)
        first = 0
        for shard in self.training_.shards:
            here = (index >= first) & (index < first + len(shard))
            rows[here] = shard.features[index[here] - first].float().cpu()
            first += len(shard)
        return rows


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _with_lengths(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and their lengths (n,): for a single image a product over these costs less than a copy of the rows.

    Where the squares of some row would vanish or overflow, the rows are the directions, of length 1.
    """
    lengths = torch.linalg.vector_norm(rows, dim=1)
    if ((lengths > SMALL) & (lengths < LARGE)).all():
        return rows, lengths
    return directions(rows), torch.ones_like(lengths)


def directions(features: Tensor) -> Tensor:
    """h / ||h||_2 of features (n, P), in float32; a row of zeros stays as it is.

    Divided by its largest number first, a row of any length has squares that neither vanish nor overflow.
    """
    largest = features.abs().amax(dim=1, keepdim=True)
    return normalize((features / torch.where(largest == 0, 1, largest)).float())


@register_detector
class KNNL1(KNN):
    """Ablation of NCI with another proximity: score = -||f - f_(K)||_2 + alpha ||h||_1 (Liu & Qin 2025).

    f = h / ||h||_2 as in KNN; the norm is that of the raw feature. ``alpha`` weighs it.
    """

    name = "knn_l1"
    display = "KNN, L1 norm"
    paper = NCI_PAPER
    caches = ("_kept",)

    def __init__(self, K: int = 50, alpha: float = 1e-4) -> None:
        super().__init__(K)
        self.alpha = alpha

    def check_hyperparameters(self) -> None:
        super().check_hyperparameters()
        check_number(f"detector '{self.name}': alpha", self.alpha, least=0)

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        super()._fit(training, head, validation)
        self._kept: dict[tuple[int, torch.device, str], Tensor] = {}

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        norm = features.double().abs().sum(dim=1)
        return in_range_of(-self._distance(features) + self.alpha * norm, like=logits)

    def _distance(self, features: Tensor) -> Tensor:
        """As of KNN, the last few kept by K, device and hash of the features: a search of ``alpha`` looks once."""
        key = self.K, features.device, digest(features.detach().float().cpu().numpy().tobytes())
        if key not in self._kept:
            self._kept[key] = super()._distance(features)
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return self._kept[key]
