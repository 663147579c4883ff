"""What an extraction is going to do, known before the first image passes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import CSID, TEST, TRAIN, Benchmark, Features, Split
from nci_plugin.benchmarks.image_list import OOD_LABEL, ImageFiles
from nci_plugin.benchmarks.opening import image_batches
from nci_plugin.benchmarks.shards import ShardedImages
from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.collector import Collector, training_statistics
from nci_plugin.features.fingerprint import network_digest
from nci_plugin.features.forward import Forward, Passed
from nci_plugin.features.options import ExtractionOptions, check_amp, resolve_device
from nci_plugin.features.shard_collector import Layout, ShardCollector
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.store import SplitStore
from nci_plugin.files import digest, digest_of
from nci_plugin.networks.cut import PROBE_ROWS
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.linear import agrees, head_on_features

COMPARED_ROWS = 1024
"""Rows of a split of features, evenly spaced, whose logits are compared with those of the head."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One extraction: all ``images``, the splits of them that pass, and those ``given`` as features.

    ``forward`` is the network where images pass. ``training`` holds what is needed of the training split. ``started``
    is the time on `time.perf_counter`.
    """

    benchmark: Benchmark
    options: ExtractionOptions
    device: torch.device
    head: LinearHead
    fingerprint: str
    forward: Forward | None
    images: Mapping[str, Any]
    passing: Mapping[str, ShardCollector]
    given: Mapping[str, FeatureSplit]
    training: Collector
    started: float

    def batches(self, name: str, starts: Collection[int], workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (images, labels) of a split that begin at these rows, loaded by so many processes."""
        pinned, size, shape = self.device.type == "cuda", self.options.batch_size, self.options.image_shape
        for images, labels in image_batches(name, self.images[name], size, workers, pinned, starts):
            if shape is not None and images.shape[1:] != shape:
                raise PluginError(
                    f"split '{name}': images must be {tuple(shape)} each, as the first ones are, got"
                    f" {tuple(images.shape[1:])}; preprocess all alike, as the network's test images"
                )
            yield images, labels

    def first_images(self, name: str, number: int) -> Tensor:
        """A few images with which a shard of a split begins."""
        start = self.passing[name].layout.starts(number)[0]
        return next(image_batches(name, self.images[name], _few(self.options), starts=[start]))[0]


def make_plan(
    network: nn.Module | LinearHead,
    benchmark: Benchmark,
    training: Collection[FitsOn],
    options: ExtractionOptions,
    splits: Mapping[str, Any],
    stages: bool = False,
) -> Plan:
    """Find the head, and decide what passes and what is kept of it; the arguments are those of `extract`.

    The network must be `prepared`. Raises PluginError where it and the splits do not belong together.
    """
    started, device, fits_on = time.perf_counter(), resolve_device(options.device), set(training) - {FitsOn.NOTHING}
    if fits_on and TRAIN not in splits:
        raise PluginError(f"benchmark '{benchmark.name}': the split '{TRAIN}' is missing and a detector needs it")
    check_amp(options.amp, device)
    images = {name: split for name, split in splits.items() if not isinstance(split, Features)}
    needed = {name: split for name, split in splits.items() if name != TRAIN or fits_on}
    features = {name: split for name, split in needed.items() if name not in images}
    probed = next((name for name in (TEST, *needed) if name in images), "")
    forward, widths = None, {}
    if isinstance(network, LinearHead):
        head, fingerprint = network, digest("head only")
        if probed:
            raise PluginError(f"split '{probed}': images need a network; got a linear head alone")
    elif probed:
        probe = next(image_batches(probed, images[probed], _few(options), starts=[0]))[0]
        forward = Forward.of(network, device, probe, options.head, options.amp)
        head, fingerprint = forward.head, network_digest(network, device, options.batch_size, options.amp)
        widths = forward.stage_widths() if stages else {}
    else:
        split = features.get(TEST) or next(iter(features.values()))
        head = head_on_features(network, options.head, benchmark.num_classes, split.features, split.logits)
        fingerprint = digest("features")
    if head.num_classes != benchmark.num_classes:
        raise PluginError(
            f"network: its head has {head.num_classes} classes, benchmark '{benchmark.name}' has"
            f" {benchmark.num_classes}; pass the network that was trained on it"
        )
    given = {name: _given(name, split, head) for name, split in features.items()}
    collector = Collector(head.num_classes, training_statistics(fits_on, head.num_features), features=False)
    for chunk in given[TRAIN].chunks() if TRAIN in given else ():
        collector.add(Passed(chunk, {}))
    passing: dict[str, ShardCollector] = {}
    shards = 0
    for name in (name for name in needed if name in images):
        layout = Layout(len(images[name]), options.batch_size, 4 * (head.num_classes + head.num_features))  # float32
        numbers = options.processes.share(layout.num_shards, shards)
        shards += layout.num_shards
        where = layout, numbers, _store(name, images[name], options, fingerprint)
        if name == TRAIN:
            statistics = training_statistics(fits_on, head.num_features, widths)
            collector = passing[name] = ShardCollector(*where, head.num_classes, statistics, FitsOn.BANK in fits_on)
        else:
            kept = widths if Split.parse(name).is_tested and not name.startswith(CSID) else {}
            passing[name] = ShardCollector(*where, head.num_classes, {}, stages=kept)
    return Plan(benchmark, options, device, head, fingerprint, forward, images, passing, given, collector, started)


def _few(options: ExtractionOptions) -> int:
    return min(PROBE_ROWS, options.batch_size)


def _store(name: str, split: Any, options: ExtractionOptions, fingerprint: str) -> SplitStore | None:
    """Where a split is stored; only splits whose images have a fingerprint are."""
    if options.store is not None and isinstance(split, (ImageFiles, ShardedImages)):
        return SplitStore(options.store / fingerprint / f"{name.replace('/', '.')}-{digest_of([split.fingerprint])}")
    return None


def _given(name: str, split: Features, head: LinearHead) -> FeatureSplit:
    """Features that `open_splits` checked, with labels and logits where none were given.

    Raises PluginError on logits that are not the head's.
    """
    features = split.features
    check_width(f"split '{name}'", features, head.num_features)
    labels = torch.full((len(features),), OOD_LABEL) if split.labels is None else split.labels
    logits = head.logits(features) if split.logits is None else split.logits
    check_finite(f"split '{name}' logits", logits)
    if split.logits is not None:
        rows = torch.linspace(0, len(features) - 1, min(len(features), COMPARED_ROWS)).long()
        if not agrees(head, features[rows], logits[rows]):
            raise PluginError(
                f"split '{name}': its logits are not W h + b of its features with the head's weights; pass the head and"
                " the features and logits of one network, row by row, or leave the logits out"
            )
    return FeatureSplit.of(features, logits, labels)
