"""The training images, passed through a network once for all postprocessors that are set up on it."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import length_hint
from typing import Any

import torch
from openood.datasets.imglist_dataset import ImglistDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, default_collate

from nci_plugin.benchmarks.samples import is_plain
from nci_plugin.detectors.base import Training
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.collector import Collector, training_statistics
from nci_plugin.features.fingerprint import network_digest
from nci_plugin.features.forward import Forward
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.files import digest
from nci_plugin.networks.calling import device_of
from nci_plugin.networks.cut import PROBE_ROWS, Cut
from nci_plugin.networks.head import LinearHead
from nci_plugin.progress import progress


@dataclass(frozen=True, eq=False)
class TrainingPass:
    """What one pass left: the head and its name, both statistics, and the features only if a detector asked for them.

    ``probe`` are a few of the images with their features and logits.
    """

    head_name: str
    head: LinearHead
    statistics: ClassStatistics
    unit_statistics: ClassStatistics
    bank: FeatureSplit | None
    probe: tuple[Tensor, Tensor, Tensor]

    def training(self, fits_on: FitsOn) -> Training:
        """What a detector fits on."""
        if fits_on is FitsOn.BANK:
            return self.bank
        return {FitsOn.STATISTICS: self.statistics, FitsOn.UNIT_STATISTICS: self.unit_statistics}.get(fits_on)

    def is_of(self, network: nn.Module) -> bool:
        """Whether the network, known by its weights and source, still computes the same."""
        return Forward(Cut(network, self.head_name), device_of(network)).gives(*self.probe)


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
def features_of(network: nn.Module, loader: Any, head_name: str | None) -> tuple[Forward, FeatureSplit]:
    """OpenOOD's batches of other ID images, passed; the head is looked for on the first one unless it is named.

    The network must be in eval mode. Raises PluginError as `Forward.of_loader` does.
    """
    with _counted(loader) as batches:
        forward, passed = Forward.of_loader(network, device_of(network), batches, "validation loader", head_name)
        return forward, FeatureSplit([each.chunk for each in passed])


def _pass(network: nn.Module, loader: Any, with_features: bool) -> TrainingPass:
    with _counted(loader) as counted:
        forward, batches = Forward.of_loader(network, device_of(network), counted, "training loader")
        probe, head = forward.probe[:PROBE_ROWS], forward.head
        needed = training_statistics({FitsOn.UNIT_STATISTICS}, head.num_features)
        collector = Collector(head.num_classes, needed, with_features)
        for passed in batches:
            collector.add(passed)
    statistics, unit_statistics = collector.statistics.values()
    features, logits = (each.cpu() for each in forward(probe)[:2])
    return TrainingPass(
        forward.cut.head_name, head, statistics, unit_statistics, collector.split, (probe.cpu(), features, logits)
    )


@contextmanager
def _counted(loader: Any) -> Iterator[Iterator[Any]]:
    """The batches of a loader, with a progress of them while this is open."""
    with progress("setup", "batch", length_hint(loader) or None) as bar:

        def batches() -> Iterator[Any]:
            for batch in loader:
                yield batch
                bar.update()

        yield batches()


def _content(loader: Any) -> Hashable:
    """What a loader will give: the content of OpenOOD's image lists; anything else only as the object itself."""
    if type(loader) is not DataLoader or loader.collate_fn is not default_collate:
        return _Same(loader)
    if not is_plain(loader) or isinstance(loader.sampler, SubsetRandomSampler):
        return _Same(loader)
    dataset = loader.dataset
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
