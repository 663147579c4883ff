"""What one forward pass leaves behind: features, logits and labels of every split, in memory or on disk.

On disk a split is a directory of shards. A shard is a safetensors file that holds whole batches and is named by its
number and the hash of number and bytes, so a file that was cut short or changed is found without another list;
``split.json`` is written last and tells how many rows a finished split has. Files are written
beside their place and renamed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nci_plugin.files import digest, write_atomically
from nci_plugin.head import LinearHead
from nci_plugin.statistics import ClassStatistics

SHARD_BYTES = 64 * 2**20
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


@dataclass(frozen=True, eq=False)
class FeatureSplit:
    """Features, logits and labels of one split, as the shards in which they were stored (memory-mapped)."""

    shards: Sequence[Chunk]

    @classmethod
    def of(cls, features: Tensor, logits: Tensor, labels: Tensor) -> FeatureSplit:
        """A split in memory: features (n, P), logits (n, K), labels (n,)."""
        return cls([Chunk(features, logits, labels)])

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def num_features(self) -> int:
        return self.shards[0].features.shape[1]

    @property
    def features(self) -> Tensor:
        """All features (n, P), copied into memory where there is more than one shard."""
        return _joined([shard.features for shard in self.shards])

    @property
    def logits(self) -> Tensor:
        """All logits (n, K)."""
        return _joined([shard.logits for shard in self.shards])

    @property
    def labels(self) -> Tensor:
        """All labels (n,), -1 = OOD."""
        return _joined([shard.labels for shard in self.shards])

    @property
    def predictions(self) -> Tensor:
        """Predicted classes (n,): argmax of the logits."""
        return _joined([shard.logits.argmax(dim=1) for shard in self.shards])

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """The split in order, at most ``rows`` rows at a time."""
        for shard in self.shards:
            for start in range(0, len(shard), rows):
                yield shard.rows(start, start + rows)

    def rows(self, start: int, stop: int) -> Chunk:
        """Rows ``start`` up to ``stop``; copied only where they lie in more than one shard."""
        parts, first = [], 0
        for shard in self.shards:
            low, high = max(start - first, 0), min(stop - first, len(shard))
            if low < high:
                parts.append(shard.rows(low, high))
            first += len(shard)
        return Chunk(*(_joined([getattr(part, field) for part in parts]) for field in vars(parts[0])))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Images:
    """A network on its device, and its images by split: Datasets of (image (3, H, W), label)."""

    network: nn.Module
    device: torch.device
    splits: Mapping[str, Any]
    workers: int


@dataclass(eq=False)
class FeatureBank:
    """Everything that a detector may read of one network on one benchmark.

    ``splits`` maps names such as ``id/test`` and ``near/cifar100`` to features; the training split is there only if a
    detector needs it. ``statistics`` are those of the training split, None if no detector needs them. ``batch_size``
    images went through the network at a time, and ``images`` are that network and those images, for methods that must
    pass them again. ``training_store`` is where features of the training split are stored if they ever were.
    """

    head: LinearHead
    splits: dict[str, FeatureSplit]
    statistics: ClassStatistics | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 200
    images: Images | None = None
    training_store: SplitStore | None = None


class SplitStore:
    """The directory of one stored split.

    ``fingerprint`` says what the split was made from; a directory is named by it, so another list, network or
    preprocessing is another directory and stale features are never read.
    """

    SHARD_NAME = re.compile(r"(\d{5})-([0-9a-f]{32})\.safetensors")

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def is_finished(self) -> bool:
        return (self.directory / "split.json").is_file()

    def shards(self) -> list[Chunk]:
        """The unbroken run of valid shards from the first on; a damaged shard and those behind it are removed."""
        found = sorted(
            (int(match[1]), match[2], path)
            for path in (self.directory.iterdir() if self.directory.is_dir() else ())
            if (match := self.SHARD_NAME.fullmatch(path.name))
        )
        chunks: list[Chunk] = []
        for number, checksum, path in found:
            if number != len(chunks) or digest(str(number), path.read_bytes()) != checksum:
                path.unlink(missing_ok=True)
                continue
            with safetensors.safe_open(path, framework="pt") as file:
                chunks.append(Chunk(*(file.get_tensor(name) for name in ("features", "logits", "labels"))))
        return chunks

    def add_shard(self, number: int, chunk: Chunk) -> None:
        data = safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in vars(chunk).items()}, metadata={"format": "pt"}
        )
        write_atomically(self.directory / f"{number:05d}-{digest(str(number), data)}.safetensors", data)

    def finish(self, rows: int, provenance: dict[str, Any]) -> None:
        write_atomically(self.directory / "split.json", json.dumps({"rows": rows, **provenance}, indent=1) + "\n")

    def load(self) -> FeatureSplit | None:
        """The finished split, or None where it is not finished or damaged (it is then extracted again)."""
        if not self.is_finished:
            return None
        shards = self.shards()
        try:
            whole = sum(map(len, shards)) == json.loads((self.directory / "split.json").read_text())["rows"]
        except (ValueError, TypeError, KeyError):
            whole = False
        if whole:
            return FeatureSplit(shards)
        (self.directory / "split.json").unlink(missing_ok=True)
        return None

    # Statistics of a training split whose features need not be kept.

    def save_statistics(self, statistics: ClassStatistics) -> None:
        data = safetensors.torch.save(statistics.state_dict())
        path = self.directory / f"statistics-{digest(data)}.safetensors"
        write_atomically(path, data)
        for old in self.directory.glob("statistics-*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)

    def load_statistics(self) -> ClassStatistics | None:
        """The stored statistics, or None where there are none or their file is damaged."""
        for path in self.directory.glob("statistics-*.safetensors"):
            data = path.read_bytes()
            if path.name == f"statistics-{digest(data)}.safetensors":
                return ClassStatistics.from_state_dict(safetensors.torch.load(data))
        return None
