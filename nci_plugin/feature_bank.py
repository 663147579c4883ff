"""What one forward pass leaves behind: features, logits and labels of every split, in memory or on disk.

On disk a split is a directory of shards. A shard is a safetensors file that holds whole batches and is named by its
number and the hash of its bytes, its number and its place, so a file that was cut short, changed or brought from
elsewhere is found without another list; ``split.json`` is written last and tells how many rows a finished split has.
Files are written beside their place and renamed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError
from nci_plugin.files import digest, write_atomically
from nci_plugin.head import LinearHead
from nci_plugin.statistics import ClassStatistics

SHARD_BYTES = 64 * 2**20
SHARDS = 32
"""A shard holds at most so many bytes and a split has about so many shards, or more, so that processes can share it."""

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

    Its name and its parent's say what the split was made from, so another list, network or preprocessing is another
    directory and stale features are never read. They are part of every file's hash, so a file of another split or
    network is as good as a damaged one: it is removed and made again.
    """

    FILE_NAME = re.compile(r"(?P<kind>[a-z0-9-]+)-(?P<hash>[0-9a-f]{32})\.safetensors")
    SHARD = re.compile(r"\d{5}")
    STATISTICS = "statistics"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def is_finished(self) -> bool:
        return (self.directory / "split.json").is_file()

    # ---------------------------------------------------------------- features

    def shards(self, numbers: Collection[int] | None = None) -> dict[int, Chunk]:
        """The valid shards by number, of all or of some ``numbers``; damaged ones of these are removed."""
        found: dict[int, Chunk] = {}
        for kind, path in self._files():
            if not self.SHARD.fullmatch(kind) or (numbers is not None and int(kind) not in numbers):
                continue
            if int(kind) in found or self._read(path) is None:
                path.unlink(missing_ok=True)
            else:
                found[int(kind)] = self._mapped(path)
        return dict(sorted(found.items()))

    def shard_bytes(self) -> int:
        """Bytes of all that is stored of the features, damaged or not."""
        return sum(path.stat().st_size for kind, path in self._files() if self.SHARD.fullmatch(kind))

    def add_shard(self, number: int, chunk: Chunk) -> Chunk:
        """Store a shard; returns it as it is stored, memory-mapped."""
        tensors = {name: tensor.contiguous() for name, tensor in vars(chunk).items()}
        return self._mapped(self._write(f"{number:05d}", safetensors.torch.save(tensors, metadata={"format": "pt"})))

    def finish(self, rows: int, provenance: Mapping[str, Any]) -> None:
        """Say that all shards are there."""
        path, text = self.directory / "split.json", json.dumps({"rows": rows, **provenance}, indent=1) + "\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomically(path, text)

    def load(self) -> FeatureSplit | None:
        """The finished split, or None where it is not finished or damaged (it is then extracted again)."""
        if not self.is_finished:
            return None
        shards = self.shards()
        try:
            whole = sum(map(len, shards.values())) == json.loads((self.directory / "split.json").read_text())["rows"]
        except (ValueError, TypeError, KeyError):
            whole = False
        if whole and list(shards) == list(range(len(shards))):
            return FeatureSplit(list(shards.values()))
        (self.directory / "split.json").unlink(missing_ok=True)
        return None

    # ---------------------------------------------------------------- statistics

    def save_statistics(self, statistics: ClassStatistics) -> None:
        """Store the statistics of a whole training split; those of its parts are removed."""
        path = self._write(self.STATISTICS, safetensors.torch.save(statistics.state_dict()))
        self._remove(lambda kind: kind == self.STATISTICS or kind.startswith("part-"), but=path)

    def load_statistics(self) -> ClassStatistics | None:
        """The stored statistics, or None where there are none or their file is damaged."""
        for kind, path in self._files():
            if kind == self.STATISTICS and (data := self._read(path)) is not None:
                return ClassStatistics.from_state_dict(safetensors.torch.load(data))
        return None

    def save_part(self, part: str, shards: int, statistics: ClassStatistics) -> None:
        """Store the statistics of the first ``shards`` shards of a ``part`` of the split, to go on from there."""
        # Not durable: a file that a power cut damages is found by its hash, and the one before it is not needed.
        data = safetensors.torch.save(statistics.state_dict())
        path = self._write(f"part-{part}-{shards:05d}", data, durable=False)
        self._remove(lambda kind: kind.startswith(f"part-{part}-"), but=path)

    def load_part(self, part: str) -> tuple[int, ClassStatistics] | None:
        """What `save_part` stored last of a part, or None."""
        found = {kind: path for kind, path in self._files() if kind.startswith(f"part-{part}-")}
        for kind, path in sorted(found.items(), reverse=True):
            if (data := self._read(path)) is not None:
                return int(kind.rpartition("-")[2]), ClassStatistics.from_state_dict(safetensors.torch.load(data))
        return None

    # ---------------------------------------------------------------- inside

    def _files(self) -> list[tuple[str, Path]]:
        """Kind and path of the files that are named as this class names them, in the order of their names."""
        try:
            found = [
                (match["kind"], path)
                for path in (self.directory.iterdir() if self.directory.is_dir() else ())
                if (match := self.FILE_NAME.fullmatch(path.name)) and path.is_file()
            ]
        except OSError as error:
            raise PluginError(f"cannot read '{self.directory}': {error.strerror}; delete that directory") from None
        return sorted(found)

    def _name(self, kind: str, data: bytes) -> str:
        return f"{kind}-{digest(self.directory.parent.name, self.directory.name, kind, data)}.safetensors"

    def _write(self, kind: str, data: bytes, durable: bool = True) -> Path:
        path = self.directory / self._name(kind, data)
        write_atomically(path, data, durable)
        return path

    def _read(self, path: Path) -> bytes | None:
        """The bytes of a file, None if they are not those that it was named by."""
        match = self.FILE_NAME.fullmatch(path.name)
        assert match is not None
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process took it away
            return None
        except OSError as error:
            raise PluginError(f"cannot read '{path}': {error.strerror}; delete that file") from None
        return data if path.name == self._name(match["kind"], data) else None

    def _mapped(self, path: Path) -> Chunk:
        with safetensors.safe_open(path, framework="pt") as file:
            return Chunk(*(file.get_tensor(name) for name in ("features", "logits", "labels")))

    def _remove(self, wanted: Callable[[str], bool], but: Path) -> None:
        for kind, path in self._files():
            if wanted(kind) and path != but:
                path.unlink(missing_ok=True)
