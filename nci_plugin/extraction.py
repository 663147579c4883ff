"""One forward pass over every image list: images -> FeatureBank and ClassStatistics."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
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
from nci_plugin.distributed import ALONE, Processes
from nci_plugin.feature_bank import SHARD_BYTES, SHARDS, Chunk, FeatureBank, FeatureSplit, Images, SplitStore
from nci_plugin.files import digest, free_bytes
from nci_plugin.fingerprint import features_digest, network_digest
from nci_plugin.head import LinearHead
from nci_plugin.networks.cut import Cut
from nci_plugin.statistics import ClassStatistics

REUSE_TOLERANCE = 1e-3
"""Largest relative difference between stored features and those of a recomputed batch: other kernels, same network."""

PROBE_ROWS = 8
"""Images of the first batch on which the head is found and stored features are compared."""

STATISTICS_SECONDS = 10.0
"""How often statistics are stored on the way, where no features are: a file can be as large as a shard."""


UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}


@dataclass(frozen=True)
class ExtractionOptions:
    """How the pass is run; none of it changes a number beyond rounding.

    ``tell`` is called with a line about what is going to be stored, before the pass. ``processes`` share the pass.
    """

    device: str = "auto"
    batch_size: int = 200
    workers: int = 0
    head: str | None = None
    store: Path | None = None
    progress: bool = True
    tell: Callable[[str], None] | None = None
    processes: Processes = ALONE

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

    Stored splits of the same content are used again after their first images were recomputed and compared. Where there
    are more processes, this is the first of them, and the others call `extract_share`.
    Raises PluginError on bad input (see `open_splits`), on NaN or infinite features, naming split and row, and where
    the free space does not do.
    """
    options = options or ExtractionOptions()
    splits = dict(splits or open_splits(benchmark))
    images = {name: split for name, split in splits.items() if not isinstance(split, Features)}
    device = resolve_device(options.device)
    with prepared(network, device):
        extraction = _Extraction(network, benchmark, training, options, splits, device)
        extraction.check_space()
        extraction.run_share()
        options.processes.wait()
        bank = extraction.collect()
    if isinstance(network, nn.Module):
        bank.images = Images(network, device, images, options.workers)
    return bank


def extract_share(
    network: nn.Module | LinearHead,
    benchmark: Benchmark,
    training: FitsOn,
    options: ExtractionOptions,
    splits: Mapping[str, Any],
) -> None:
    """What every process but the first does of `extract`: store its share of the shards, and wait for the others."""
    device = resolve_device(options.device)
    with prepared(network, device):
        _Extraction(network, benchmark, training, options, splits, device).run_share()
        options.processes.wait()


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
        splits: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.started = time.perf_counter()
        self.benchmark, self.training, self.options = benchmark, training, options
        self.splits = {name: split for name, split in splits.items() if name != TRAIN or training is not FitsOn.NOTHING}
        if training is not FitsOn.NOTHING and TRAIN not in splits:
            raise PluginError(f"benchmark '{benchmark.name}': the split '{TRAIN}' is missing and a detector needs it")
        self.device = device
        self.images = {name: split for name, split in self.splits.items() if not isinstance(split, Features)}
        self.cut: Cut | None = None
        self.statistics: ClassStatistics | None = None
        self.shards: dict[str, dict[int, Chunk]] = {}
        if isinstance(network, LinearHead):
            self.head, self.network_digest = network, digest("head only")
            if self.images:
                raise PluginError(f"split '{next(iter(self.images))}': images need a network; got a linear head alone")
        elif self.images:
            first = TEST if TEST in self.images else next(iter(self.images))
            self.probe = next(self._batches(first, [0]))[0][:PROBE_ROWS].to(self.device)
            self.cut = Cut.of(network, self.probe, options.head)
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

        self.stores = {name: self._store(name, split) for name, split in self.images.items()}
        unstored = next((name for name, store in self.stores.items() if store is None), None)
        if unstored and options.processes.size > 1:
            raise PluginError(
                f"split '{unstored}': only stored image lists can be shared by processes; use one process"
            )

    def check_space(self) -> None:
        """Say how many bytes each split needs; raises PluginError if more are needed than are free."""
        if self.options.store is None or not self.images:
            return
        row = 4 * (self.head.num_features + self.head.num_classes) + 8  # float32 features and logits, an int64 label
        needed = {
            name: max(0, row * len(self.images[name]) - store.shard_bytes())
            for name, store in self.stores.items()
            if store is not None and not self._only_statistics(name)
        }
        free = free_bytes(self.options.store)
        splits = ", ".join(f"{name} {_size(count)}" for name, count in needed.items() if count)
        if self.options.tell and splits:
            self.options.tell(f"features to store: {_size(sum(needed.values()))} ({splits}); {_size(free)} are free")
        if sum(needed.values()) > free:
            raise PluginError(
                f"output '{self.options.store}': {_size(sum(needed.values()))} of features are to be stored and"
                f" {_size(free)} are free; free space, choose another --output, or leave out detectors that need the"
                " training features"
            )

    def run_share(self) -> None:
        """This process's share of the pass: every n-th shard of every split, the shards of all splits being counted."""
        processes, before = self.options.processes, 0
        shares: dict[str, range] = {}
        for name in self.images:
            shares[name] = processes.share(self._num_shards(name), before)
            before += self._num_shards(name)
        quiet = None if self.options.progress and processes.is_first else True  # None: quiet unless on a terminal
        total = sum(self._rows_of(name, number) for name, numbers in shares.items() for number in numbers)
        with tqdm(total=total, unit="img", desc="extract", disable=quiet) as self.bar:
            for name, numbers in shares.items():
                self._share(name, numbers)

    def collect(self) -> FeatureBank:
        """The bank, once all shards are there."""
        found = {name: self._collect(name, split) for name, split in self.splits.items()}
        provenance = {
            "network": self.head.network,
            "fingerprint": self.network_digest,
            "device": str(self.device),
            "batch_size": self.options.batch_size,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
            "extraction_seconds": round(time.perf_counter() - self.started, 3),
        }
        kept = {name: split for name, split in found.items() if split is not None}
        bank = FeatureBank(self.head, kept, self.statistics, provenance, self.options.batch_size)
        bank.training_store = self.stores.get(TRAIN)
        bank.provenance["features"] = features_digest(bank)
        return bank

    # ---------------------------------------------------------------- one split

    def _only_statistics(self, name: str) -> bool:
        return name == TRAIN and self.training is FitsOn.STATISTICS

    def _share(self, name: str, numbers: range) -> None:
        """Extract those of a split's shards ``numbers`` that are not stored already."""
        store = self.stores[name]
        if name == TRAIN and store is not None:
            self.statistics = store.load_statistics()
        part = _part(numbers.start, self.options.processes.size)
        shards = self.shards[name] = {}
        if not self._only_statistics(name):
            if store is not None:
                shards.update(store.shards(numbers))
            if name == self.first_split and 0 in shards:
                self._compare(name, shards[0], store)
            self.bar.update(sum(map(len, shards.values())))
            for number, shard in self._pass(name, [number for number in numbers if number not in shards]):
                shards[number] = shard if store is None else store.add_shard(number, shard)
            if name == TRAIN and self.statistics is None:
                own = ((number, shards[number]) for number in numbers)
                self._sum(own, ClassStatistics(*self._shape), store, part, 0)
        elif self.statistics is None:
            begun = store.load_part(part) if store is not None else None
            done, statistics = begun or (0, ClassStatistics(*self._shape))
            self.bar.update(sum(self._rows_of(name, number) for number in numbers[:done]))
            self._sum(self._pass(name, numbers[done:]), statistics, store, part, done)
        else:
            self.bar.update(sum(self._rows_of(name, number) for number in numbers))

    def _sum(
        self,
        shards: Iterator[tuple[int, Chunk]],
        statistics: ClassStatistics,
        store: SplitStore | None,
        part: str,
        done: int,
    ) -> None:
        """Add shards to the statistics of this process's ``part``, of which ``done`` are there, and store them."""
        stored = time.monotonic()
        for _, shard in shards:
            statistics.update(shard.features, shard.labels).flush()
            done += 1
            if store is not None and self._only_statistics(TRAIN) and time.monotonic() - stored > STATISTICS_SECONDS:
                store.save_part(part, done, statistics)
                stored = time.monotonic()
        if self.options.processes.size == 1:
            self.statistics = statistics
            if store is not None:
                store.save_statistics(statistics)
        elif store is not None:
            store.save_part(part, done, statistics)

    def _collect(self, name: str, split: Any) -> FeatureSplit | None:
        """A split of which every process has stored its share."""
        if isinstance(split, Features):
            return self._given(name, split)
        store, shards = self.stores[name], self.shards[name]
        if name == TRAIN and self.statistics is None and store is not None:
            self.statistics = self._merged(store, len(split))
            store.save_statistics(self.statistics)
        if self._only_statistics(name):
            return None
        if store is not None:
            shards.update(store.shards([number for number in range(self._num_shards(name)) if number not in shards]))
            rows = sum(map(len, shards.values()))
            if rows != len(split):
                raise PluginError(
                    f"stored features of split '{name}' in '{store.directory}': {rows} of {len(split)} rows are there"
                    " after the pass; all processes must see that directory, and its disk must keep what is written"
                )
            store.finish(rows, {"split": name, "benchmark": self.benchmark.name, "network": self.head.network})
        return FeatureSplit([shards[number] for number in sorted(shards)])

    def _merged(self, store: SplitStore, rows: int) -> ClassStatistics:
        """The statistics of all processes' parts, in the order of their shards."""
        statistics, size = ClassStatistics(*self._shape), self.options.processes.size
        for first in range(size):
            _, part = store.load_part(_part(first, size)) or (0, ClassStatistics(*self._shape))
            statistics.merge(part)
        if statistics.num_samples != rows:
            raise PluginError(
                f"stored statistics in '{store.directory}': of {statistics.num_samples} of {rows} images; all processes"
                " must see that directory, and its disk must keep what is written"
            )
        return statistics

    def _given(self, name: str, split: Features) -> FeatureSplit | None:
        features = split.features.float()
        check_width(f"split '{name}'", features, self.head.num_features)
        labels = torch.full((len(features),), OOD_LABEL) if split.labels is None else split.labels.long()
        logits = self.head.logits(features) if split.logits is None else split.logits.float()
        check_finite(f"split '{name}' logits", logits)
        if name == TRAIN:
            self.statistics = ClassStatistics(*self._shape)
            for chunk in FeatureSplit.of(features, logits, labels).chunks():
                self.statistics.update(chunk.features, chunk.labels)
        return FeatureSplit.of(features, logits, labels)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.head.num_classes, self.head.num_features

    # ---------------------------------------------------------------- the pass

    def _pass(self, name: str, numbers: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
        """Run the network over the batches of some shards; yields each shard with its number."""
        size, per_shard = self.options.batch_size, self._rows_per_shard(self.images[name])
        starts = {
            number: range(number * per_shard, number * per_shard + self._rows_of(name, number), size)
            for number in numbers
        }
        chunks = self._chunks(name, [start for each in starts.values() for start in each])
        for number in numbers:
            parts = list(islice(chunks, len(starts[number])))
            yield number, Chunk(*(torch.cat([getattr(part, field) for part in parts]) for field in vars(parts[0])))

    def _chunks(self, name: str, starts: Sequence[int]) -> Iterator[Chunk]:
        assert self.cut is not None
        for row, (images, labels) in zip(starts, self._batches(name, starts)):
            features, logits = self.cut(images.to(self.device, non_blocking=True))
            chunk = Chunk(features.cpu(), logits.cpu(), labels.long())
            check_finite(f"split '{name}' features", chunk.features, first_index=row)
            check_finite(f"split '{name}' logits", chunk.logits, first_index=row)
            if self.benchmark.is_id(name):
                check_labels(f"split '{name}'", chunk.labels, self.benchmark.num_classes, first_index=row)
            self.bar.update(len(chunk))
            yield chunk

    def _batches(self, name: str, starts: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        pinned = self.device.type == "cuda"
        return image_batches(name, self.splits[name], self.options.batch_size, self.options.workers, pinned, starts)

    # ---------------------------------------------------------------- storage

    def _store(self, name: str, split: Any) -> SplitStore | None:
        """Where a split is stored; only splits whose images have a fingerprint are."""
        if self.options.store is None or not isinstance(split, ImageFiles):
            return None
        content = digest(split.fingerprint)
        return SplitStore(self.options.store / self.network_digest / f"{name.replace('/', '.')}-{content}")

    def _rows_per_shard(self, split: Any) -> int:
        """Whole batches, the same whatever the number of processes."""
        size = self.options.batch_size
        row_bytes = 4 * (self.head.num_features + self.head.num_classes)
        batches = max(1, min(SHARD_BYTES // (row_bytes * size), -(-len(split) // (size * SHARDS))))
        return batches * size

    def _num_shards(self, name: str) -> int:
        return -(-len(self.images[name]) // self._rows_per_shard(self.images[name]))

    def _rows_of(self, name: str, number: int) -> int:
        per_shard = self._rows_per_shard(self.images[name])
        return min(per_shard, len(self.images[name]) - number * per_shard)

    def _compare(self, name: str, stored: Chunk, store: SplitStore | None) -> None:
        assert self.cut is not None
        assert store is not None
        now = self.cut(self.probe)[0].cpu()
        then = stored.features[: len(now)]
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


def _part(first: int, size: int) -> str:
    """The name of every ``size``-th shard from ``first`` on: a process's share, whichever process's it is."""
    return f"{first}of{size}"


def _size(count: int) -> str:
    """A number of bytes as text."""
    unit, divisor = next(((unit, size) for unit, size in UNITS.items() if count >= size), ("bytes", 1))
    return f"{count / divisor:.1f} {unit}" if divisor > 1 else f"{count} bytes"


def default_workers(processes: int = 1) -> int:
    """Loader processes for each of so many, by the cores at hand: none on one or two, where they would take time from
    the network."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= processes
    return 0 if cores <= 2 else min(8, cores // 2)
