"""The whole of an extraction: every split of a benchmark, by one process or many, into a FeatureBank."""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torchvision
from torch import nn
from tqdm import tqdm

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, TEST, TRAIN, Benchmark, Features
from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.checks import PluginError
from nci_plugin.features.bank import FeatureBank, FitsOn, Images, Stages
from nci_plugin.features.fingerprint import features_digest, network_digest
from nci_plugin.features.forward import Forward, channels_last, prepared
from nci_plugin.features.given import given_split, given_statistics, head_of
from nci_plugin.features.layout import Layout
from nci_plugin.features.options import ExtractionOptions, check_amp, resolve_device
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.split_pass import SplitPass
from nci_plugin.features.store import SplitStore
from nci_plugin.features.sums import FEATURES, UNIT, Sum, of_stage, training_sums
from nci_plugin.files import digest, free_bytes
from nci_plugin.networks.cut import PROBE_ROWS
from nci_plugin.networks.head import LinearHead

UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}


def extract(
    network: nn.Module | LinearHead,
    benchmark: Benchmark,
    training: Collection[FitsOn] = frozenset({FitsOn.BANK}),
    options: ExtractionOptions | None = None,
    splits: Mapping[str, Any] | None = None,
    stages: bool = False,
) -> FeatureBank:
    """Pass every image of ``benchmark`` through ``network`` once and keep features, logits and labels.

    Args:
        network: any classifier that ends in a linear layer; a LinearHead is enough if all splits are features.
        training: what the detectors need of the training split, as `training_needed` says.
        options: device, precision, batch size, workers, head and directory of the stored features (None = memory).
        splits: what `open_splits` returned, if it was called before.
        stages: also keep the pooled outputs of the network's stages, of the test, near and far splits, and their
            training statistics. Where features were stored without them, the images pass again, and a line says so.

    Stored splits of the same content are used again after their first images were recomputed and compared. Where there
    are more processes, this is the first of them, and the others call `extract_share`.
    Raises PluginError on bad input (see `open_splits`), on NaN or infinite features, naming split and row, and where
    the free space does not do.
    """
    options = options or ExtractionOptions()
    splits = dict(splits or open_splits(benchmark))
    images = {name: split for name, split in splits.items() if not isinstance(split, Features)}
    device = resolve_device(options.device)
    with prepared(network, device), channels_last(network, device):
        extraction = _Extraction(network, benchmark, training, options, splits, device, stages)
        extraction.say_what_is_missing()
        if options.begin is not None:
            options.begin()
        extraction.run_share()
        options.processes.wait()
        bank = extraction.collect()
    if isinstance(network, nn.Module):
        bank.images = Images(network, device, images, options.workers)
    return bank


def extract_share(
    network: nn.Module | LinearHead,
    benchmark: Benchmark,
    training: Collection[FitsOn],
    options: ExtractionOptions,
    splits: Mapping[str, Any],
    stages: bool = False,
) -> None:
    """What every process but the first does of `extract`: store its share of the shards, and wait for the others."""
    device = resolve_device(options.device)
    with prepared(network, device), channels_last(network, device):
        extraction = _Extraction(network, benchmark, training, options, splits, device, stages)
        if options.begin is not None:
            options.begin()
        extraction.run_share()
        options.processes.wait()


class _Extraction:
    """One pass of one network: the state that its splits share."""

    def __init__(
        self,
        network: nn.Module | LinearHead,
        benchmark: Benchmark,
        training: Collection[FitsOn],
        options: ExtractionOptions,
        splits: Mapping[str, Any],
        device: torch.device,
        stages: bool,
    ) -> None:
        self.started = time.perf_counter()
        self.benchmark, self.options, self.device = benchmark, options, device
        self.training = frozenset(training) - {FitsOn.NOTHING}
        self.splits = {name: split for name, split in splits.items() if name != TRAIN or self.training}
        if self.training and TRAIN not in splits:
            raise PluginError(f"benchmark '{benchmark.name}': the split '{TRAIN}' is missing and a detector needs it")
        check_amp(options.amp, device)
        images = {name: split for name, split in self.splits.items() if not isinstance(split, Features)}
        self.forward: Forward | None = None
        if isinstance(network, LinearHead):
            self.head, self.network_digest = network, digest("head only")
            if images:
                raise PluginError(f"split '{next(iter(images))}': images need a network; got a linear head alone")
        elif images:
            self.forward = Forward(network, device, self._probe(images), options.head, options.amp)
            self.head = self.forward.head
            self.network_digest = network_digest(network, device, options.batch_size, options.amp)
        else:
            given = self.splits.get(TEST) or next(iter(self.splits.values()))
            self.head = head_of(network, options.head, benchmark.num_classes, given)
            self.network_digest = digest("features")
        if self.head.num_classes != benchmark.num_classes:
            raise PluginError(
                f"network: its head has {self.head.num_classes} classes, benchmark '{benchmark.name}' has"
                f" {benchmark.num_classes}; pass the network that was trained on it"
            )
        self.with_stages = stages
        self.stages = self.forward.stage_widths() if stages and self.forward is not None else {}
        self.sums: dict[str, Sum] = {}
        self.passes = {name: self._split_pass(name, split) for name, split in images.items()}
        self.shares = self._shares()

    def _probe(self, images: Mapping[str, Any]) -> torch.Tensor:
        """The first images, of the test split if it is there."""
        self.first_split = TEST if TEST in images else next(iter(images))
        rows = min(PROBE_ROWS, self.options.batch_size)
        return next(image_batches(self.first_split, images[self.first_split], rows, starts=[0]))[0]

    def _split_pass(self, name: str, split: Any) -> SplitPass:
        assert self.forward is not None  # there are images
        store = self._store(name, split)
        if store is None and self.options.processes.size > 1:
            raise PluginError(f"split '{name}': only stored image lists can be shared by processes; use one process")
        shape = self.head.num_classes, self.head.num_features
        if name == TRAIN:
            self.sums = training_sums(*shape, FitsOn.UNIT_STATISTICS in self.training, self.stages, store)
        return SplitPass(
            name,
            split,
            Layout(len(split), self.options.batch_size, 4 * sum(shape)),  # float32
            store,
            self.forward,
            self.options,
            keeps_features=name != TRAIN or FitsOn.BANK in self.training,
            stages=self.stages if name == TEST or name.split("/")[0] in (NEAR, FAR) else {},
            sums=list(self.sums.values()) if name == TRAIN else [],
        )

    def _store(self, name: str, split: Any) -> SplitStore | None:
        """Where a split is stored; only splits whose images have a fingerprint are."""
        if self.options.store is None or not isinstance(split, ImageFiles):
            return None
        content = digest(split.fingerprint)
        return SplitStore(self.options.store / self.network_digest / f"{name.replace('/', '.')}-{content}")

    def _shares(self) -> dict[str, range]:
        """This process's of every split's shards: every n-th, the shards of all splits being counted."""
        processes, shares, before = self.options.processes, {}, 0
        for name, each in self.passes.items():
            shares[name] = processes.share(each.layout.num_shards, before)
            before += each.layout.num_shards
            for one in each.sums:
                one.begin(_part(shares[name].start, processes.size))
        return shares

    # ---------------------------------------------------------------- the pass

    def say_what_is_missing(self) -> None:
        """Say how many bytes each split needs; raises PluginError if more are needed than are free."""
        if self.options.store is None or not self.passes:
            return
        tell = self.options.tell or (lambda _: None)
        needed = {name: each.bytes_to_store() for name, each in self.passes.items()}
        free = free_bytes(self.options.store)
        splits = ", ".join(f"{name} {_size(count)}" for name, count in needed.items() if count)
        if splits:
            tell(f"features to store: {_size(sum(needed.values()))} ({splits}); {_size(free)} are free")
        if sum(needed.values()) > free:
            raise PluginError(
                f"output '{self.options.store}': {_size(sum(needed.values()))} of features are to be stored and"
                f" {_size(free)} are free; free space, choose another --output, or leave out detectors that need the"
                " training features"
            )
        again = sum(each.rows_again() for each in self.passes.values())
        if again:
            tell(f"stages: an earlier run stored features without them, so {again} images pass again")

    def run_share(self) -> None:
        """This process's share of the pass."""
        quiet = None if self.options.progress and self.options.processes.is_first else True  # None: on a terminal only
        total = sum(self.passes[name].layout.rows_of(n) for name, numbers in self.shares.items() for n in numbers)
        with tqdm(total=total, unit="img", desc="extract", disable=quiet) as bar:
            for name, numbers in self.shares.items():
                self.passes[name].share(numbers, name == self.first_split, bar.update)

    # ---------------------------------------------------------------- the bank

    def collect(self) -> FeatureBank:
        """The bank, once all shards are there."""
        size = self.options.processes.size
        parts = [_part(first, size) for first in range(size)]
        for each in self.sums.values():
            if each.whole is None:
                each.merge(parts, len(self.splits[TRAIN]))
        statistics = {name: each.whole for name, each in self.sums.items() if each.whole is not None}
        found: dict[str, FeatureSplit | None] = {}
        for name, split in self.splits.items():
            if name in self.passes:
                stored = {"split": name, "benchmark": self.benchmark.name, "network": self.head.network}
                found[name] = self.passes[name].collect(stored)
            else:
                given = found[name] = given_split(name, split, self.head)
                if name == TRAIN:
                    statistics = given_statistics(given, self.head, FitsOn.UNIT_STATISTICS in self.training)
        kept = {name: split for name, split in found.items() if split is not None}
        bank = FeatureBank(
            self.head,
            kept,
            statistics.get(FEATURES),
            self._provenance(),
            self.options.batch_size,
            unit_statistics=statistics.get(UNIT),
        )
        bank.training_store = self.passes[TRAIN].store if TRAIN in self.passes else None
        if self.with_stages:
            bank.stages = Stages(
                {stage: statistics[of_stage(stage)] for stage in self.stages if of_stage(stage) in statistics},
                {name: each.collect_stages() for name, each in self.passes.items() if each.stages},
            )
        if self.options.amp != "none":
            bank.float32 = {name: each.in_float32() for name, each in self.passes.items() if _is_tested(name)}
        bank.provenance["features"] = features_digest(bank)
        return bank

    def _provenance(self) -> dict[str, Any]:
        return {
            "network": self.head.network,
            "fingerprint": self.network_digest,
            "device": str(self.device),
            "batch_size": self.options.batch_size,
            "amp": self.options.amp,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
            "extraction_seconds": round(time.perf_counter() - self.started, 3),
        }


def _is_tested(name: str) -> bool:
    return name == TEST or name.split("/")[0] in (CSID, NEAR, FAR)


def _part(first: int, size: int) -> str:
    """The name of every ``size``-th shard from ``first`` on: a process's share, whichever process's it is."""
    return f"{first}of{size}"


def _size(count: int) -> str:
    """A number of bytes as text."""
    unit, divisor = next(((unit, size) for unit, size in UNITS.items() if count >= size), ("bytes", 1))
    return f"{count / divisor:.1f} {unit}" if divisor > 1 else f"{count} bytes"
