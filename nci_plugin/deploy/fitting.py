"""Detectors fitted on a network's training images and calibrated on validation images, in one forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from nci_plugin.benchmarks.benchmark import TRAIN, VALIDATION
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.checks import PluginError, check_choice, check_number, shown
from nci_plugin.config import load_detector
from nci_plugin.deploy import file, images
from nci_plugin.deploy.calibration import Calibration, least_samples
from nci_plugin.deploy.network import Fingerprint, Probe, check_image_shape, inner_name
from nci_plugin.deploy.overlap import check_apart, check_contents_apart
from nci_plugin.deploy.passing import Passing
from nci_plugin.deploy.state import forget_scored
from nci_plugin.detectors.base import Detector
from nci_plugin.detectors.registry import as_detector
from nci_plugin.evaluation.contestant import check_ranking
from nci_plugin.evaluation.scoring import score_split
from nci_plugin.evaluation.search import fit
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics

if TYPE_CHECKING:
    from nci_plugin.deploy.detector import OODDetector


AGREEMENT = 50
"""Percent of the validation images: of fewer that get their own label one should know."""


@dataclass(frozen=True)
class _Passed:
    """What the pass left: the features of both splits, and what of the network and its images belongs in a file."""

    bank: FeatureBank
    fingerprint: Fingerprint
    head: str
    probe: Probe
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]


def fit_together(asked: Sequence[OODDetector], model: nn.Module, train: Any, validation: Any) -> str:
    """Fit several OODDetectors on one network in one pass over its images, each as `OODDetector.fit` would.

    Preprocessing, class names, head, batch size and store are those of the first. All are fitted, or none where one
    raises: PluginError, which names the detector, whatever its own code raises. Returns a line that says how far the
    network agrees with the labels: where these are in another order, nothing else shows it. Below `AGREEMENT` it warns.
    """
    detectors = [new_detector(each.detector) for each in asked]
    for detector in detectors:
        detector.check_hyperparameters()
    for each in asked:
        _check_settings(each)
    tuned = [each.holdout or detector.needs_validation for each, detector in zip(asked, detectors)]
    passed = _pass(asked, detectors, tuned, model, train, validation)
    found = []
    for each, detector, is_tuned in zip(asked, detectors, tuned):
        with errors_name(detector):
            found.append(_fitted(each, detector, is_tuned, passed))
    for each, fitted in zip(asked, found):
        each.keep(fitted, model)
    agreed = _accuracy(passed.bank.splits[VALIDATION])
    if agreed < AGREEMENT:
        warnings.warn(
            f"validation images: the network gives its label to {agreed:.1f} % of them; where it should do better, the"
            " labels are in another order than its outputs, or the preprocessing is not that of its test",
            stacklevel=3,
        )
    return _agreement(passed.bank)


@contextmanager
def errors_name(detector: Detector) -> Iterator[None]:
    """Whatever is raised within, by a detector of the user's or as memory ran out, is a PluginError that names it."""
    where = f"detector '{detector.name}': "
    try:
        yield
    except PluginError as error:
        raise error if str(error).startswith(where) else PluginError(f"{where}{error}") from None
    except Exception as error:
        raise PluginError(f"{where}{type(error).__name__}: {error}; mend it, or name another") from error


def _agreement(bank: FeatureBank) -> str:
    """Accuracy on the training images where their features are kept, else on their class means, and on validation."""
    said = []
    if TRAIN in bank.splits:
        said.append(f"{_accuracy(bank.splits[TRAIN]):.1f} % of the training images")
    elif bank.statistics is not None:
        there = torch.nonzero(bank.statistics.counts)[:, 0].cpu()
        predicted = bank.head.logits(bank.statistics.means[there].float()).argmax(dim=1).cpu()
        said.append(f"{int((predicted == there).sum())} of {len(there)} class means of the training images")
    said.append(f"{_accuracy(bank.splits[VALIDATION]):.1f} % of the validation images")
    return f"the network gives its label to {' and '.join(said)}"


def _accuracy(split: FeatureSplit) -> float:
    return 100 * float((split.predictions == split.labels).double().mean())


def _pass(
    asked: Sequence[OODDetector],
    detectors: Sequence[Detector],
    tuned: Sequence[bool],
    model: nn.Module,
    train: Any,
    validation: Any,
) -> _Passed:
    passing = Passing.of(model, asked[0], "validation images", validation, train)
    check_image_shape(passing.image_shape)
    opened = passing.open("validation images", validation)
    splits: dict[str, Any] = {VALIDATION: opened.split}
    labelled, needed = [opened], {detector.fits_on for detector in detectors} - {FitsOn.NOTHING}
    if train is not None or needed:
        training = passing.open("training images", train)
        labelled.append(training)
        check_apart(training.split, opened.split)
        if needed:
            splits[TRAIN] = training.split
        for each, detector in zip(asked, detectors):
            _check_rows(detector, len(training), each.bank_rows)
    names = images.agreed_names(labelled, asked[0].class_names, passing.num_classes)
    for each, is_tuned in zip(asked, tuned):
        _check_enough(len(opened) - (len(opened) // 2 if is_tuned else 0), each.tpr)
    bank, _ = passing.bank(splits, needed)
    check_contents_apart(splits.get(TRAIN), opened.split)
    head = passing.head_name
    probe = Probe.of(model, head, passing.image_shape)
    return _Passed(bank, Fingerprint.of(model, head), inner_name(model, head), probe, passing.steps, names)


def _fitted(settings: OODDetector, detector: Detector, tuned: bool, passed: _Passed) -> file.Fitted:
    """One detector, fitted on what the pass left."""
    bank = passed.bank
    validation, train = bank.splits[VALIDATION], bank.splits.get(TRAIN)
    fitting, calibrating = halves(validation, settings.seed) if tuned else (None, validation)
    if train is not None and settings.bank_rows is not None:
        train = drawn(train, settings.bank_rows, settings.seed)
    used = {} if train is None else {TRAIN: train}
    if fitting is not None and detector.needs_validation:
        used[VALIDATION] = fitting
    used_bank = FeatureBank(bank.head, used, bank.statistics, unit_statistics=bank.unit_statistics)
    training = used_bank.training(detector.fits_on)
    fit(detector, used_bank)
    scores = score_split(detector, calibrating)
    check_ranking({VALIDATION: scores}, detector.name, detector.get_hyperparameters(), detector.magnitude)
    probe_scores = detector.score(passed.probe.features, passed.probe.logits)
    forget_scored(detector)
    return file.Fitted(
        detector=detector,
        network=passed.fingerprint,
        head=passed.head,
        probe=passed.probe,
        probe_scores=probe_scores.cpu(),
        preprocessing=passed.preprocessing,
        class_names=passed.class_names,
        calibration=Calibration.of(scores, calibrating.predictions.numpy(), settings.by_class),
        rows={
            "train": training.num_samples if isinstance(training, ClassStatistics) else len(training or ()),
            "validation_fit": len(validation) - len(calibrating),
            "calibration": len(calibrating),
        },
        settings={"tpr": float(settings.tpr), "by_class": settings.by_class, "seed": settings.seed},
        chosen_by=detector.explain_choice() or "fixed",
    )


def new_detector(detector: Any) -> Detector:
    """An unfitted detector of a name, a YAML file, a class or a detector; raises PluginError on anything else."""
    if isinstance(detector, (str, Path)):
        return load_detector(str(detector)).detector.clone()
    if not isinstance(detector, (Detector, type)):
        raise PluginError(f"detector: must be a name, a YAML file or a Detector, got {type(detector).__name__}")
    return as_detector(detector).clone()


def detector_names(names: Any) -> list[str]:
    """Names of detectors, each once; one text is one name. Raises PluginError where there is none."""
    given = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if not given or not all(isinstance(name, str) for name in given):
        raise PluginError(f"detectors: must be at least one name, got {shown(names)}; leave it out, or name some")
    return list(dict.fromkeys(given))


def _check_settings(settings: OODDetector) -> None:
    least_samples(settings.tpr)
    check_number("seed", settings.seed, least=0, whole=True, most=2**63 - 1)
    check_choice("by_class", settings.by_class, (True, False))
    check_choice("holdout", settings.holdout, (True, False))
    check_number("batch_size", settings.batch_size, above=0, whole=True)
    if settings.bank_rows is not None:
        check_number("bank_rows", settings.bank_rows, above=0, whole=True)


def _check_enough(rows: int, tpr: float) -> None:
    if rows < least_samples(tpr):
        raise PluginError(
            f"validation images: {rows} of them calibrate, and a TPR of {100 * tpr:g} % needs at least"
            f" {least_samples(tpr)}; pass more, or a smaller tpr"
        )


def _check_rows(detector: Detector, rows: int, kept: int | None) -> None:
    """Raise PluginError where a detector keeps fewer training features than it asks for."""
    if min(rows, rows if kept is None else kept) < detector.least_training:
        of = f"bank_rows (--bank-rows) keeps {kept} of" if kept is not None and kept < rows else "there are"
        raise PluginError(
            f"detector '{detector.name}': K must be at most the training images that it keeps, got K ="
            f" {detector.least_training}, and {of} {rows}; keep more, or give a smaller K"
        )


def halves(split: FeatureSplit, seed: int) -> tuple[FeatureSplit, FeatureSplit]:
    """A split cut once into two, half of each class in either, to a row; of an odd number the second has one more."""
    order = np.random.default_rng(seed).permutation(len(split))
    by_class = order[np.argsort(split.labels.numpy()[order], kind="stable")]
    return _rows(split, np.sort(by_class[1::2])), _rows(split, np.sort(by_class[::2]))


def drawn(split: FeatureSplit, rows: int, seed: int) -> FeatureSplit:
    """``rows`` of a split, or all if it has fewer, in their order: the same share of each class, to a row."""
    if len(split) <= rows:
        return split
    labels, generator = split.labels.numpy(), np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    places = (np.arange(rows) * len(labels) // rows) + generator.integers(len(labels) // rows)
    return _rows(split, np.sort(by_class[places]))


def _rows(split: FeatureSplit, index: np.ndarray) -> FeatureSplit:
    rows = torch.from_numpy(index)
    return FeatureSplit.of(split.features[rows], split.logits[rows], split.labels[rows])
