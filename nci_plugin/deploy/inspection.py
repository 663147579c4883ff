"""`explain` and `diagnose` on a model and images in loaders, data sets or folders: no list of OpenOOD's is needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import FAR, NEAR, TEST, TRAIN, VALIDATION, Benchmark
from nci_plugin.benchmarks.folder import ImageFolder
from nci_plugin.benchmarks.image_list import ImageList, Preprocessing
from nci_plugin.benchmarks.samples import open_samples
from nci_plugin.checks import PluginError
from nci_plugin.config import load_detector
from nci_plugin.deploy import images
from nci_plugin.deploy.detector import OODDetector
from nci_plugin.deploy.network import device_of
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.diagnosis.image import Explanation, explain_image
from nci_plugin.diagnosis.network import Diagnosis, diagnose_network
from nci_plugin.evaluation.evaluate import evaluate_bank, training_needed
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.forward import prepared
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.networks.cut import PROBE_ROWS, Cut
from nci_plugin.networks.linear import check_weights


def explain(
    model: nn.Module,
    image: Any,
    train: Any,
    validation: Any,
    *,
    detectors: Sequence[str] = DETECTORS,
    tpr: float = 0.95,
    like: OODDetector | None = None,
) -> Explanation:
    """How one image stands to the training set of a network: its class, and its scores among ID validation images.

    Args:
        image: a preprocessed tensor (3, H, W), a PIL image or the path of one.
        model, train, validation: as in `OODDetector.fit`.
        detectors: names whose scores are given.
        like: an OODDetector with the settings (preprocessing, head, batch size) that count here.

    Raises PluginError as `OODDetector.fit`.
    """
    setups = [load_detector(name) for name in detectors]
    like = like or OODDetector()
    steps = like.preprocessing_for(model, train, validation)
    source = image[None] if isinstance(image, Tensor) and image.ndim == 3 else image
    batch = next(images.batches(source, steps, 1))
    needed = training_needed(setups) | {FitsOn.STATISTICS}
    bank, _ = _passed(model, {TRAIN: train, VALIDATION: validation}, {}, needed, like, steps)
    return explain_image(batch[:1], bank, setups, tpr)


def diagnose(
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    validation: Any = None,
    near: Mapping[str, Any] | None = None,
    far: Mapping[str, Any] | None = None,
    like: OODDetector | None = None,
) -> Diagnosis:
    """Measure neural collapse (NC1 to NC5) in a network, and OOD images against it where there are any.

    Args:
        model, train: as in `OODDetector.fit`; ``test`` and ``validation`` are labelled images too.
        near, far: OOD images by the name of the data set, as in `OODDetector.score`.
        like: an OODDetector with the settings (preprocessing, head, batch size) that count here.

    Returns:
        A Diagnosis: ``record`` holds the numbers, as ``nci-ood diagnose`` stores them.
    """
    like = like or OODDetector()
    given = {TRAIN: train, VALIDATION: validation, TEST: test}
    labelled = {name: source for name, source in given.items() if source is not None}
    others = {f"{NEAR}/{name}": source for name, source in (near or {}).items()}
    others.update({f"{FAR}/{name}": source for name, source in (far or {}).items()})
    steps = like.preprocessing_for(model, *labelled.values())
    setups = [load_detector(name) for name in DETECTORS]
    bank, benchmark = _passed(model, labelled, others, {FitsOn.STATISTICS}, like, steps)
    evaluation = evaluate_bank(bank, benchmark, setups)
    return diagnose_network(bank, benchmark, evaluation, seed="", second_pass=True)


def _passed(
    model: nn.Module,
    labelled: Mapping[str, Any],
    others: Mapping[str, Any],
    needed: Collection[FitsOn],
    like: OODDetector,
    steps: Preprocessing | None,
) -> tuple[FeatureBank, Benchmark]:
    """What one pass over labelled splits and OOD splits leaves, and their benchmark."""
    check_weights(model)
    device = device_of(model)
    first_name = next(iter(labelled))
    first = images.first_images(first_name, labelled[first_name], steps, PROBE_ROWS)
    with prepared(model, device):
        cut = Cut.of(model, first.to(device), like.head)
    num_classes = cut.head.num_classes
    splits: dict[str, Any] = {
        name: images.open_labelled(f"images of {name}", source, num_classes, steps).split
        for name, source in labelled.items()
    }
    for name, source in others.items():
        splits[name] = _open_ood(name, source, steps)
    benchmark = Benchmark("images", num_classes, {TEST: "", **splits})
    options = ExtractionOptions(str(device), like.batch_size, like.workers, cut.head_name, progress=like.progress)
    return extract(model, benchmark, needed, options, splits), benchmark


def _open_ood(name: str, source: Any, steps: Preprocessing | None) -> Any:
    try:
        if isinstance(source, (str, Path)):
            return ImageFolder(images.directory(source), images.needed(steps, f"the folder '{source}'")).read(None)
        if isinstance(source, ImageList):
            return source.read()
        if isinstance(source, torch.Tensor):
            source = list(source)
        return open_samples(source, None, steps)
    except PluginError as error:
        raise PluginError(f"images of {name}: {error}") from None
