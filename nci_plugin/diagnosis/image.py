"""One image against a network's training set: its class, its scores and where they lie among ID validation samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nci_plugin.benchmarks.benchmark import VALIDATION
from nci_plugin.benchmarks.image_list import OOD_LABEL
from nci_plugin.checks import PluginError, check_number
from nci_plugin.collapse.geometry import centre_distances, present_classes
from nci_plugin.detectors.base import FLOAT32_STEP
from nci_plugin.evaluation.contestant import ROUNDING_STEPS, Contestant
from nci_plugin.evaluation.scoring import score_split
from nci_plugin.evaluation.search import fit_and_search
from nci_plugin.features.bank import FeatureBank


@dataclass(frozen=True)
class Score:
    """A score of the image (larger = ID), its percentile among ID validation, the threshold, and whether it is ID."""

    detector: str
    value: float
    percentile: float  # share of ID validation samples with at most this score, in percent
    threshold: float
    is_id: bool


@dataclass(frozen=True)
class Explanation:
    """One network's view of an image; distances are Euclidean, in the unit of the features.

    ``predicted_distance`` is None where the predicted class had no training sample, and so has no mean; ``not_scored``
    are the detectors that cannot be used on this network, with the reason. ``class_names`` are those of all classes by
    label, empty where nobody named them.
    """

    predicted: int
    probability: float  # softmax, 0..1
    predicted_distance: float | None
    nearest: int
    nearest_distance: float
    scores: tuple[Score, ...]
    num_validation: int
    not_scored: Mapping[str, str] = field(default_factory=dict)
    class_names: Sequence[str] = ()

    def __repr__(self) -> str:
        called_id = sum(score.is_id for score in self.scores)
        predicted, nearest = (self.class_names[k] if self.class_names else k for k in (self.predicted, self.nearest))
        return (
            f"Explanation(predicted {predicted}, nearest mean {nearest}, called ID by {called_id} of"
            f" {len(self.scores)} scores; see .scores)"
        )


def check_kept(what: str, tpr: float) -> None:
    """Raise PluginError unless ``tpr`` is a share of ID samples that can be kept: above 0, up to 1."""
    check_number(what, tpr, above=0)
    if tpr > 1:  # a percentage, as the command took once
        raise PluginError(f"{what}: must be a share between 0 and 1, at most 1, got {tpr:g}; 0.95 keeps 95 %")


def explain_image(image: Tensor, bank: FeatureBank, setups: Sequence[Contestant], tpr: float) -> Explanation:
    """Score an image (1, 3, H, W) with a bank's network.

    The threshold of each score is the largest that keeps at least the share ``tpr``, 0..1, of the ID validation split.
    Detectors that cannot be used on it are left out, as `evaluate` does. Raises PluginError where the network gives NaN
    or infinity, and where no detector can be used.
    """
    source, statistics, validation = bank.images, bank.statistics, bank.splits[VALIDATION]
    assert source is not None
    assert statistics is not None
    with source.forward() as forward:
        (passed,) = forward.over([(image, torch.tensor([OOD_LABEL]))], "the image's")
    features, logits = passed.chunk.features, passed.chunk.logits
    classes = present_classes(statistics)
    distances = centre_distances(features, statistics.means[classes])[0]
    by_class = dict(zip(classes.tolist(), distances.tolist()))
    predicted = int(logits.argmax())
    scores, not_scored = [], {}
    for setup in setups:
        try:
            scores.append(_score(setup, bank, features, logits, tpr))
        except PluginError as error:
            not_scored[setup.name] = str(error)
    if not scores:
        raise PluginError(next(iter(not_scored.values())))
    return Explanation(
        predicted=predicted,
        probability=float(torch.softmax(logits.double(), dim=1).max()),
        predicted_distance=by_class.get(predicted),
        nearest=int(classes[distances.argmin()]),
        nearest_distance=float(distances.min()),
        scores=tuple(scores),
        num_validation=len(validation),
        not_scored=not_scored,
    )


def _score(setup: Contestant, bank: FeatureBank, features: Tensor, logits: Tensor, tpr: float) -> Score:
    detector = fit_and_search(setup, bank).detector
    value = float(detector.score(features, logits))
    validation = np.sort(score_split(detector, bank.splits[VALIDATION]).astype(np.float64))
    kept = max(1, math.ceil(round(tpr * len(validation), 9)))  # 0.55 * 100 is more than 55 in floating point
    threshold = float(validation[-kept])
    most = value + ROUNDING_STEPS * FLOAT32_STEP * abs(value)  # a batch rounds otherwise
    percentile = 100 * float(np.mean(validation <= most))
    return Score(setup.name, value, percentile, threshold, most >= threshold)
