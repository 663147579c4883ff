"""`explain` and `diagnose` on a model and images in loaders, data sets or folders: no list of OpenOOD's is needed."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import FAR, NEAR, TEST, TRAIN, VALIDATION, Benchmark, splits_of_group
from nci_plugin.checks import PluginError, errors_begin
from nci_plugin.collapse.measure import shown_values
from nci_plugin.config import load_detector
from nci_plugin.deploy import images
from nci_plugin.deploy.detector import OODDetector, settings_of
from nci_plugin.deploy.fitting import detector_names
from nci_plugin.deploy.overlap import check_apart, check_contents_apart
from nci_plugin.deploy.passing import Passing
from nci_plugin.diagnosis import DETECTORS, explanation
from nci_plugin.diagnosis.image import Explanation, check_kept, explain_image
from nci_plugin.diagnosis.network import Diagnosis, diagnose_network
from nci_plugin.evaluation.contestant import Scores
from nci_plugin.evaluation.evaluate import evaluate_bank, training_needed
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.report.diagnosis_files import SINGLE, Stored
from nci_plugin.report.diagnosis_tables import collapse_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Inspection(Diagnosis):
    """What `diagnose` found: ``record`` holds all numbers, as ``nci-ood diagnose`` stores them.

    ``scores`` are those of the diagnosis's detectors, by detector and split.
    """

    scores: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The collapse metrics of the training set by name, in their own units; None where one has no value."""
        return dict(self.record.collapse.values)

    @property
    def sentences(self) -> list[str]:
        """What the numbers say, in sentences made by rule."""
        return list(explanation.explain([self.record]).sentences)

    def figures(self) -> dict[str, Figure]:
        """The figures of ``nci-ood diagnose`` by name, those that this network and its data have."""
        from nci_plugin.report.diagnosis_figures import FIGURES  # imports matplotlib

        stored = Stored(SINGLE, self.record, self.arrays, self.scores)
        drawn = {name: draw(stored) for name, draw in FIGURES.items()}
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def __repr__(self) -> str:
        return f"Inspection({shown_values(self.metrics)}; see .metrics, .sentences, .figures())"

    def _repr_html_(self) -> str:
        """What a notebook shows: sentences, and the metrics beside their values at collapse."""
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        header, *rows = collapse_table([SINGLE], [self.record]).rows
        return f"<ul>{said}</ul>{pd.DataFrame(rows, columns=header).to_html(index=False)}"


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
        tpr: the share of ID validation images that a score's threshold keeps, 0..1.
        like: an OODDetector with the settings (preprocessing, class names, head, batch size) that count here.

    Raises PluginError as `OODDetector.fit`.
    """
    setups = [load_detector(name) for name in detector_names(detectors)]
    like = settings_of(like)
    check_kept("tpr", tpr)
    passing = Passing.of(model, like, "validation images", validation, train)
    source = image[None] if isinstance(image, Tensor) and image.ndim == 3 else image
    batch = next(images.batches(source, passing.steps, 2))
    if len(batch) > 1:
        raise PluginError("image: must be one image, got several; explain them one after the other")
    needed = training_needed(setups) | {FitsOn.STATISTICS}
    if batch.shape[1:] != passing.image_shape:
        raise PluginError(
            f"image: must be {tuple(passing.image_shape)}, as the validation images, got {tuple(batch.shape[1:])};"
            " preprocess it as them"
        )
    bank, _, names = _passed(passing, {TRAIN: train, VALIDATION: validation}, {}, needed)
    return replace(explain_image(batch, bank, setups, tpr), class_names=names)


def diagnose(
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    validation: Any = None,
    near: Mapping[str, Any] | None = None,
    far: Mapping[str, Any] | None = None,
    like: OODDetector | None = None,
) -> Inspection:
    """Measure neural collapse (NC1 to NC5) in a network, and OOD images against it where there are any.

    Args:
        model, train: as in `OODDetector.fit`; ``test`` and ``validation`` are labelled images too.
        near, far: OOD images by the name of the data set, as in `OODDetector.score`.
        like: an OODDetector with the settings (preprocessing, class names, head, batch size) that count here.

    Returns:
        An Inspection: its ``metrics``, ``sentences`` and ``figures()``, and ``record``, which holds all numbers.

    Raises PluginError on images that cannot be read or labelled, as `OODDetector.fit`.
    """
    like = settings_of(like)
    labelled = {TRAIN: train, **({} if validation is None else {VALIDATION: validation}), TEST: test}
    others: dict[str, Any] = {}
    for group, sources in ((NEAR, near), (FAR, far)):
        others.update(splits_of_group(group, group, sources))
    passing = Passing.of(model, like, f"images of {TRAIN}", *labelled.values())
    setups = [load_detector(name) for name in DETECTORS]
    bank, benchmark, names = _passed(passing, labelled, others, {FitsOn.STATISTICS})
    evaluation = evaluate_bank(bank, benchmark, setups)
    found = diagnose_network(bank, benchmark, evaluation, seed="", second_pass=True)
    return Inspection(replace(found.record, class_names=names), found.arrays, evaluation.scores)


def _passed(
    passing: Passing, labelled: Mapping[str, Any], others: Mapping[str, Any], needed: Collection[FitsOn]
) -> tuple[FeatureBank, Benchmark, tuple[str, ...]]:
    """What one pass over labelled splits and OOD splits leaves, their benchmark, and the names of the classes."""
    opened = {name: passing.open(f"images of {name}", source) for name, source in labelled.items()}
    if VALIDATION in opened:
        check_apart(opened[TRAIN].split, opened[VALIDATION].split)
    names = images.agreed_names(opened.values(), passing.settings.class_names, passing.num_classes)
    splits: dict[str, Any] = {name: each.split for name, each in opened.items()}
    for name, source in others.items():
        with errors_begin(f"images of {name}"):
            folder = isinstance(source, (str, Path))
            splits[name] = images.open_unlabelled(images.directory(source) if folder else source, passing.steps)
    bank, benchmark = passing.bank(splits, needed, "images")
    if VALIDATION in splits:
        check_contents_apart(splits[TRAIN], splits[VALIDATION])
    return bank, benchmark, names
