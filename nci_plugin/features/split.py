"""Features, logits and labels of one split, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CHUNK_ROWS = 4096
"""Rows that are read at once when a split is scored or fitted on."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows of a split: features (n, P), logits (n, K), labels (n,), -1 = OOD."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, start: int, stop: int) -> Chunk:
        return Chunk(self.features[start:stop], self.logits[start:stop], self.labels[start:stop])

    def to(self, device: torch.device) -> Chunk:
        return Chunk(self.features.to(device), self.logits.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class FeatureSplit:
    """Features, logits and labels of one split, as the shards in which they were stored (memory-mapped).

    What is read of it, but for ``shards``, is put on ``device``; None leaves it where it lies.
    """

    shards: Sequence[Chunk]
    device: torch.device | None = None

    @classmethod
    def of(cls, features: Tensor, logits: Tensor, labels: Tensor) -> FeatureSplit:
        """A split in memory: features (n, P), logits (n, K), labels (n,)."""
        return cls([Chunk(features, logits, labels)])

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def num_features(self) -> int:
        return self.shards[0].features.shape[1]

    def to(self, device: torch.device | str | None) -> FeatureSplit:
        """The same split, put on another device as it is read."""
        return replace(self, device=None if device is None else torch.device(device))

    @property
    def features(self) -> Tensor:
        """All features (n, P), copied into memory where there is more than one shard."""
        return self._joined([shard.features for shard in self.shards])

    @property
    def logits(self) -> Tensor:
        """All logits (n, K)."""
        return self._joined([shard.logits for shard in self.shards])

    @property
    def labels(self) -> Tensor:
        """All labels (n,), -1 = OOD."""
        return self._joined([shard.labels for shard in self.shards])

    @property
    def predictions(self) -> Tensor:
        """Predicted classes (n,): argmax of the logits."""
        return self._joined([shard.logits.argmax(dim=1) for shard in self.shards])

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """The split in order, at most ``rows`` rows at a time."""
        for shard in self.shards:
            for start in range(0, len(shard), rows):
                chunk = shard.rows(start, start + rows)
                yield chunk if self.device is None else chunk.to(self.device)

    def rows(self, start: int, stop: int) -> Chunk:
        """Rows ``start`` up to ``stop``; copied only where they lie in more than one shard."""
        parts, first = [], 0
        for shard in self.shards:
            low, high = max(start - first, 0), min(stop - first, len(shard))
            if low < high:
                parts.append(shard.rows(low, high))
            first += len(shard)
        return Chunk(*(self._joined([getattr(part, field) for part in parts]) for field in vars(parts[0])))

    def _joined(self, parts: list[Tensor]) -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if self.device is None else whole.to(self.device)
