"""A model and its images on their way into the one pass, whatever is asked of them: opened, checked, and passed."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nci_plugin.benchmarks.benchmark import TEST, Benchmark
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.checks import PluginError, shown
from nci_plugin.deploy import images
from nci_plugin.deploy.network import check_network
from nci_plugin.deploy.preprocessing import agreed, check_size
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.forward import prepared
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.networks.calling import device_of
from nci_plugin.networks.cut import PROBE_ROWS, Cut

if TYPE_CHECKING:
    from nci_plugin.deploy.detector import OODDetector


STORE = "features"
"""The directory of the stored features, in that of a pass."""


@dataclass(frozen=True, eq=False)
class Passing:
    """A model with the head that its first images show, and the preprocessing that its images agree on.

    ``settings`` are those of an OODDetector, and ``image_shape`` is that of a preprocessed image. ``said`` are warnings
    of the preprocessing, for when nothing is refused.
    """

    model: nn.Module
    settings: OODDetector
    steps: Preprocessing | None
    head_name: str
    num_classes: int
    image_shape: torch.Size
    said: Sequence[str]

    @classmethod
    def of(cls, model: nn.Module, settings: OODDetector, what: str, source: Any, *others: Any) -> Passing:
        """Find the head on the images of ``source``, which errors call ``what``; ``others`` must be preprocessed alike.

        Raises PluginError on what is no network, on images that cannot be read or are of another size than the
        preprocessing's, where no head is found, and on a ``store`` that is no directory's name.
        """
        check_network(model)
        if not isinstance(settings.store, (str, Path, type(None))) or settings.store == "":
            raise PluginError(f"store: must be a directory, or None for memory, got {shown(settings.store)}; name one")
        said: list[str] = []
        steps = agreed(settings.preprocessing, model, source, *others, warn=said.append)
        first = images.first_images(what, source, steps, PROBE_ROWS)
        check_size(steps, first.shape[1:])
        with prepared(model) as device:
            cut = Cut.of(model, first.to(device), settings.head)
        if cut.head.num_classes < 2:
            raise PluginError(
                f"model: {type(model).__name__} gives one number an image, and detectors compare classes; end it in a"
                " linear layer with a row for each class, of zeros for the one that a sigmoid leaves out"
            )
        return cls(model, settings, steps, cut.head_name, cut.head.num_classes, first.shape[1:], said)

    def open(self, what: str, source: Any) -> images.LabelledImages:
        """Images with labels of the model's classes; raises PluginError, which begins with ``what``, on others.

        A first image of another shape than `image_shape` is refused: some networks take any, to other features.
        """
        opened = images.open_labelled(what, source, self.num_classes, self.steps)
        first = opened.split[0]
        if not isinstance(first, PluginError) and first[0].shape != self.image_shape:  # an error is said in the pass
            raise PluginError(
                f"{what}: must be {tuple(self.image_shape)} each, as the others are, got {tuple(first[0].shape)};"
                " preprocess all alike, as the network's test images"
            )
        return opened

    def bank(
        self, splits: Mapping[str, Any], needed: Collection[FitsOn], name: str = "service"
    ) -> tuple[FeatureBank, Benchmark]:
        """What one pass over opened splits leaves, and the benchmark of them."""
        for text in self.said:
            warnings.warn(text, stacklevel=2)
        benchmark = Benchmark(name, self.num_classes, {TEST: "", **splits})
        asked, device = self.settings, str(device_of(self.model))
        store = None if asked.store is None else Path(asked.store) / STORE
        where = device, asked.batch_size, asked.workers, self.head_name, store, asked.progress
        options = ExtractionOptions(*where, image_shape=self.image_shape)
        return extract(self.model, benchmark, needed, options, splits), benchmark
