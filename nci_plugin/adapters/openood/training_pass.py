"""The training images, passed through a network once for all postprocessors that are set up on it."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from openood.datasets.imglist_dataset import ImglistDataset
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, default_collate
from tqdm import tqdm

from nci_plugin.benchmarks.samples import images_and_labels
from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import Training
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.fingerprint import network_digest
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.files import digest
from nci_plugin.networks.cut import PROBE_ROWS, SAME_FEATURES, Cut
from nci_plugin.networks.head import LinearHead
from nci_plugin.rows import id_labels


@dataclass(frozen=True, eq=False)
class TrainingPass:
    """What one pass left: the head and its name, both statistics, and the features only if a detector asked for them.

    ``probe`` are a few of the images with their features.
    """

    head_name: str
    head: LinearHead
    statistics: ClassStatistics
    unit_statistics: ClassStatistics
    bank: FeatureSplit | None
    probe: tuple[Tensor, Tensor]

    def training(self, fits_on: FitsOn) -> Training:
        """What a detector fits on."""
        return {
            FitsOn.NOTHING: None,
            FitsOn.STATISTICS: self.statistics,
            FitsOn.UNIT_STATISTICS: self.unit_statistics,
            FitsOn.BANK: self.bank,
        }[fits_on]

    def is_of(self, network: nn.Module) -> bool:
        """Whether the network, known by its weights and source, still computes the same."""
        images, then = self.probe
        now = Cut(network, self.head_name)(images.to(device_of(network)))[0].cpu()
        return bool((now - then).abs().max() <= SAME_FEATURES * then.abs().max())


_last: tuple[Hashable, TrainingPass] | None = None


def forget() -> None:
    """Give back the memory of the last pass."""
    global _last
    _last = None


def training_pass(network: nn.Module, loader: Any, with_features: bool) -> TrainingPass:
    """Pass OpenOOD's batches of training images through the network, or return the last pass if it was the same one.

    OpenOOD's evaluator makes new loaders every time: a pass is the same if the weights, the network's code and the
    content of the loader are. The network must be in eval mode. Raises PluginError on what a network or its training
    set cannot be (see `Cut.of` and `ClassStatistics.update`).
    """
    global _last
    key = (network_digest(network, device_of(network), getattr(loader, "batch_size", None) or 0), _content(loader))
    with torch.no_grad():
        if _last is not None and _last[0] == key:
            there = _last[1]
            if (there.bank is not None or not with_features) and there.is_of(network):
                return there
        _last = None  # its memory is free for the next one
        done = _pass(network, loader, with_features)
    _last = (key, done)
    return done


@torch.no_grad()
def features_of(network: nn.Module, head_name: str, loader: Any) -> FeatureSplit:
    """Features, logits and labels of OpenOOD's batches of other ID images; the network must be in eval mode."""
    cut, device = Cut(network, head_name), device_of(network)
    chunks = []
    for batch in tqdm(loader, desc="setup", disable=None):
        images, labels = images_and_labels("validation loader", batch)
        features, logits = cut(images.to(device))
        labels = id_labels("validation loader", labels, len(images), cut.head.num_classes)
        chunks.append(Chunk(features.cpu(), logits.cpu(), labels))
    return FeatureSplit(chunks)


def device_of(network: nn.Module) -> torch.device:
    """Where the network's first parameter, or buffer, is; the CPU if it has neither."""
    return next((tensor.device for tensor in chain(network.parameters(), network.buffers())), torch.device("cpu"))


def _pass(network: nn.Module, loader: Any, with_features: bool) -> TrainingPass:
    device = device_of(network)
    chunks: list[Chunk] = []
    cut = None
    for batch in tqdm(loader, desc="setup", disable=None):
        images, labels = images_and_labels("training loader", batch)
        images = images.to(device)
        if cut is None:
            cut = Cut.of(network, images)
            head = cut.head
            statistics, unit_statistics = (ClassStatistics(head.num_classes, head.num_features) for _ in range(2))
            probe = images[:PROBE_ROWS].cpu(), cut(images[:PROBE_ROWS])[0].cpu()
        features, logits = cut(images)
        labels = id_labels("training loader", labels, len(images), head.num_classes)
        chunk = Chunk(features.cpu(), logits.cpu(), labels)
        statistics.update(chunk.features, chunk.labels)
        unit_statistics.update(unit_rows(chunk.features), chunk.labels)
        if with_features:
            chunks.append(chunk)
    if cut is None:
        raise PluginError("training loader: it is empty; it needs at least one batch")
    bank = FeatureSplit(chunks) if with_features else None
    return TrainingPass(cut.head_name, head, statistics, unit_statistics, bank, probe)


def _content(loader: Any) -> Hashable:
    """What a loader will give: the content of OpenOOD's image lists; anything else only as the object itself."""
    if type(loader) is not DataLoader or loader.collate_fn is not default_collate:
        return _Same(loader)
    sampler, batches, dataset = loader.sampler, loader.batch_sampler, loader.dataset
    in_order = type(sampler) is SequentialSampler
    shuffled = (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    if not (in_order or shuffled) or type(batches) is not BatchSampler or batches.sampler is not sampler:
        return _Same(loader)
    content: Hashable = _Same(dataset)
    if type(dataset) is ImglistDataset:
        # Its lines, directory and transforms. A transform of the user's, a lambda say, may have no pickle.
        with suppress(pickle.PicklingError, AttributeError, TypeError):
            content = digest(pickle.dumps(dataset))
    return loader.drop_last, content


class _Same:
    """Equal only to itself while ``thing`` is there; keeps nothing alive."""

    def __init__(self, thing: Any) -> None:
        try:
            self.reference: Any = weakref.ref(thing)
        except TypeError:  # a list, say
            self.reference = lambda: None

    def __eq__(self, other: object) -> bool:
        mine = self.reference()
        return isinstance(other, _Same) and mine is not None and mine is other.reference()

    __hash__ = object.__hash__
