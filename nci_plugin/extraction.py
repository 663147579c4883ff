"""One forward pass over every image list: images -> FeatureBank and ClassStatistics."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from nci_plugin.benchmarks.benchmark import TEST, TRAIN, Benchmark, Features
from nci_plugin.benchmarks.image_list import OOD_LABEL, ImageFiles
from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.checks import PluginError, check_finite, check_labels, check_number, check_width
from nci_plugin.detectors.base import FitsOn
from nci_plugin.feature_bank import SHARD_BYTES, Chunk, FeatureBank, FeatureSplit, Images, SplitStore
from nci_plugin.files import digest
from nci_plugin.fingerprint import features_digest, network_digest
from nci_plugin.head import LinearHead
from nci_plugin.networks.cut import Cut
from nci_plugin.statistics import ClassStatistics

REUSE_TOLERANCE = 1e-3
"""Largest relative difference between stored features and those of a recomputed batch: other kernels, same network."""


@dataclass(frozen=True)
class ExtractionOptions:
    """How the pass is run; none of it changes a number beyond rounding."""

    device: str = "auto"
    batch_size: int = 200
    workers: int = 0
    head: str | None = None
    store: Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_number("batch_size", self.batch_size, above=0, whole=True)
        check_number("workers", self.workers, least=0, whole=True)


def resolve_device(name: str) -> torch.device:
    """``auto`` = cuda, else mps, else cpu. Raises PluginError if the device is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise PluginError(f"device '{name}': must be auto, cuda, cuda:N, mps or cpu")
    if not available[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise PluginError(f"device '{name}': not available here; use --device auto")
    return device


def extract(
    network: nn.Module | LinearHead,
    benchmark: Benchmark,
    training: FitsOn = FitsOn.BANK,
    options: ExtractionOptions | None = None,
    splits: Mapping[str, Any] | None = None,
) -> FeatureBank:
    """Pass every image of ``benchmark`` through ``network`` once and keep features, logits and labels.

    Args:
        network: any classifier that ends in a linear layer; a LinearHead is enough if all splits are features.
        training: what the detectors need of the training split: nothing, its statistics or its features.
        options: device, batch size, workers, head and directory of the stored features (None = memory).
        splits: what `open_splits` returned, if it was called before.

    Stored splits of the same content are used again after the first batch was recomputed and compared.
    Raises PluginError on bad input (see `open_splits`), and on NaN or infinite features, naming split and row.
    """
    options = options or ExtractionOptions()
    splits = dict(splits or open_splits(benchmark))
    images = {name: split for name, split in splits.items() if not isinstance(split, Features)}
    if training is FitsOn.NOTHING:
        splits.pop(TRAIN, None)
    elif TRAIN not in splits:
        raise PluginError(f"benchmark '{benchmark.name}': the split '{TRAIN}' is missing and a detector needs it")
    device = resolve_device(options.device)
    with prepared(network, device):
        bank = _Extraction(network, benchmark, training, options, splits, device).run()
    if isinstance(network, nn.Module):
        bank.images = Images(network, device, images, options.workers)
    return bank


@contextmanager
def prepared(network: nn.Module | LinearHead, device: torch.device) -> Iterator[None]:
    """The network on ``device`` in eval mode, without gradients; its mode and device are put back at the end."""
    if isinstance(network, LinearHead):
        with torch.no_grad():
            yield
        return
    training = {module: module.training for module in network.modules()}
    home = next((tensor.device for tensor in network.parameters()), device)
    try:
        network.to(device).eval()
        with torch.no_grad():
            yield
    finally:
        network.to(home)
        for module, mode in training.items():
            module.training = mode


class _Extraction:
    """One pass of one network: the state that its splits share."""

    def __init__(
        self,
        network: nn.Module | LinearHead,
        benchmark: Benchmark,
        training: FitsOn,
        options: ExtractionOptions,
        splits: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.benchmark, self.training, self.options, self.splits = benchmark, training, options, splits
        self.device = device
        self.images = {name: split for name, split in splits.items() if not isinstance(split, Features)}
        self.cut: Cut | None = None
        self.statistics: ClassStatistics | None = None
        self.training_store: SplitStore | None = None
        if isinstance(network, LinearHead):
            self.head, self.network_digest = network, digest("head only")
            if self.images:
                raise PluginError(f"split '{next(iter(self.images))}': images need a network; got a linear head alone")
        elif self.images:
            first = TEST if TEST in self.images else next(iter(self.images))
            self.first_batch = next(self._batches(first, 0))[0].to(self.device)
            self.cut = Cut.of(network, self.first_batch, options.head)
            self.first_split = first
            self.head = self.cut.head
            self.network_digest = network_digest(network, self.device, options.batch_size)
        else:
            self.head, self.network_digest = _head_of(network, options.head), digest("features")
        if self.head.num_classes != benchmark.num_classes:
            raise PluginError(
                f"network: its head has {self.head.num_classes} classes, benchmark '{benchmark.name}' has"
                f" {benchmark.num_classes}; pass the network that was trained on it"
            )

    def run(self) -> FeatureBank:
        started = time.perf_counter()
        total = sum(map(len, self.images.values()))
        quiet = None if self.options.progress else True  # None: quiet unless standard error is a terminal
        with tqdm(total=total, unit="img", desc="extract", disable=quiet) as self.bar:
            stored = {name: self._split(name, split) for name, split in self.splits.items()}
        provenance = {
            "network": self.head.network,
            "fingerprint": self.network_digest,
            "device": str(self.device),
            "batch_size": self.options.batch_size,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
            "extraction_seconds": round(time.perf_counter() - started, 3),
        }
        kept = {name: split for name, split in stored.items() if split is not None}
        bank = FeatureBank(self.head, kept, self.statistics, provenance, self.options.batch_size)
        bank.training_store = self.training_store
        bank.provenance["features"] = features_digest(bank)
        return bank

    # ---------------------------------------------------------------- one split

    def _split(self, name: str, split: Any) -> FeatureSplit | None:
        if isinstance(split, Features):
            return self._given(name, split)
        store = self._store(name, split)
        only_statistics = name == TRAIN and self.training is FitsOn.STATISTICS
        if store is not None and name == TRAIN:
            self.training_store = store
            self.statistics = store.load_statistics()
            if self.statistics is not None and only_statistics:
                self.bar.update(len(split))
                return None
        loaded = store.load() if store is not None else None
        if loaded is not None:
            if name == self.first_split:
                self._compare(name, loaded, store)
            self.bar.update(len(split))
        else:
            loaded = self._extract(name, split, store, keep=not only_statistics)
        if name == TRAIN and self.statistics is None:
            self.statistics = self._train_statistics(loaded)
            if store is not None:
                store.save_statistics(self.statistics)
        return loaded if not only_statistics else None

    def _given(self, name: str, split: Features) -> FeatureSplit | None:
        features = split.features.float()
        check_width(f"split '{name}'", features, self.head.num_features)
        labels = torch.full((len(features),), OOD_LABEL) if split.labels is None else split.labels.long()
        logits = self.head.logits(features) if split.logits is None else split.logits.float()
        check_finite(f"split '{name}' logits", logits)
        given = FeatureSplit.of(features, logits, labels)
        if name == TRAIN:
            self.statistics = self._train_statistics(given)
        return given

    def _extract(self, name: str, split: Any, store: SplitStore | None, keep: bool) -> FeatureSplit | None:
        """Run the network over a split; with ``keep`` false only its statistics stay."""
        shards = store.shards() if store is not None and keep else []
        done = sum(map(len, shards))
        self.bar.update(done)
        rows_per_shard = self._rows_per_shard()
        if not keep:
            self.statistics = ClassStatistics(self.head.num_classes, self.head.num_features)
        pending: list[Chunk] = []
        for chunk in self._chunks(name, done):
            if keep:
                pending.append(chunk)
            else:
                assert self.statistics is not None
                self.statistics.update(chunk.features, chunk.labels)
            done += len(chunk)
            self.bar.update(len(chunk))
            if pending and (sum(map(len, pending)) >= rows_per_shard or done == len(split)):
                shard = Chunk(*(torch.cat([getattr(part, field) for part in pending]) for field in vars(chunk)))
                if store is not None:
                    store.add_shard(len(shards), shard)
                shards.append(shard)
                pending = []
        if not keep:
            if store is not None and self.statistics is not None:
                store.save_statistics(self.statistics)
            return None
        if store is not None:
            store.finish(done, {"split": name, "benchmark": self.benchmark.name, "network": self.head.network})
            return store.load()
        return FeatureSplit(shards)

    def _chunks(self, name: str, start: int) -> Iterator[Chunk]:
        assert self.cut is not None
        row = start
        for images, labels in self._batches(name, start):
            features, logits = self.cut(images.to(self.device, non_blocking=True))
            chunk = Chunk(features.cpu(), logits.cpu(), labels.long())
            check_finite(f"split '{name}' features", chunk.features, first_index=row)
            check_finite(f"split '{name}' logits", chunk.logits, first_index=row)
            if self.benchmark.is_id(name):
                check_labels(f"split '{name}'", chunk.labels, self.benchmark.num_classes, first_index=row)
            row += len(chunk)
            yield chunk

    def _batches(self, name: str, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        pinned = self.device.type == "cuda"
        return image_batches(name, self.splits[name], self.options.batch_size, self.options.workers, pinned, start)

    def _train_statistics(self, split: FeatureSplit | None) -> ClassStatistics:
        assert split is not None
        statistics = ClassStatistics(self.head.num_classes, self.head.num_features)
        for chunk in split.chunks():
            statistics.update(chunk.features, chunk.labels)
        return statistics

    # ---------------------------------------------------------------- storage

    def _store(self, name: str, split: Any) -> SplitStore | None:
        """Where a split is stored; only splits whose images have a fingerprint are."""
        if self.options.store is None or not isinstance(split, ImageFiles):
            return None
        content = digest(split.fingerprint)
        return SplitStore(self.options.store / self.network_digest / f"{name.replace('/', '.')}-{content}")

    def _rows_per_shard(self) -> int:
        row_bytes = 4 * (self.head.num_features + self.head.num_classes)
        batches = max(1, SHARD_BYTES // (row_bytes * self.options.batch_size))
        return batches * self.options.batch_size

    def _compare(self, name: str, stored: FeatureSplit, store: SplitStore | None) -> None:
        assert self.cut is not None
        assert store is not None
        now = self.cut(self.first_batch)[0].cpu()
        then = stored.shards[0].features[: len(now)]
        if (now - then).abs().max() > REUSE_TOLERANCE * now.abs().max():
            raise PluginError(
                f"stored features of split '{name}' in '{store.directory}' are not what the network gives now; the"
                " network's code changed what it computes without changing its source: delete that directory"
            )


def _head_of(network: nn.Module, name: str | None) -> LinearHead:
    """The head of a network that sees no image: the layer named, or its last linear layer."""
    if isinstance(network, nn.Linear):
        return LinearHead.from_linear(network)
    linears = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not name and not linears:
        raise PluginError(f"network {type(network).__name__}: has no linear layer; pass its head as a LinearHead")
    return Cut(network, name or linears[-1]).head


def default_workers() -> int:
    """Loader processes by the cores at hand: none on one or two, where they would take time from the network."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(8, cores // 2)
