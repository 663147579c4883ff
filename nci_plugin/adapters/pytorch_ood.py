"""pytorch-ood's detectors (Kirchheim et al. 2022) on stored features and logits. The only importer of pytorch_ood.

Its scores are larger for OOD samples and are turned here. Detectors that read feature maps, several layers or the
images themselves cannot be scored from what one pass leaves; `EXCLUDED` names each with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.adapters import PYTORCH_OOD as PREFIX
from nci_plugin.adapters.pytorch_ood_distances import expand
from nci_plugin.adapters.pytorch_ood_table import classes, display, stored
from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import Detector, Paper, Sizes
from nci_plugin.detectors.mahalanobis import class_means, means_differ
from nci_plugin.evaluation.scoring import ran_out
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.machine import free_memory
from nci_plugin.networks.head import LinearHead

LARGEST_GRID = 50
"""Combinations up to which the library's own ``hyperparameter_space`` is searched."""


def _alone(head: LinearHead) -> dict[str, Any]:
    return {"encoder": None}


def _with_head(head: LinearHead) -> dict[str, Any]:
    layer = nn.Linear(head.num_features, head.num_classes)
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    return {"encoder": None, "head": layer.requires_grad_(False)}


def _with_weights(head: LinearHead) -> dict[str, Any]:
    return {"encoder": None, "w": head.weight, "b": head.bias}


def _on_logits(head: LinearHead) -> dict[str, Any]:
    return {"model": None}


@dataclass(frozen=True)
class Entry:
    """How a class of pytorch-ood is constructed from the head, what it must be given, and a smaller grid if stated.

    ``magnitude`` is that of `Detector`.
    """

    arguments: Callable[[LinearHead], dict[str, Any]]
    needs_fit: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, list[Any]] | None = None
    magnitude: float = 0.0

    @property
    def reads_logits(self) -> bool:
        return self.arguments is _on_logits


ENTRIES = {
    "Entropy": Entry(_on_logits, needs_fit=False),
    "GEN": Entry(_on_logits, needs_fit=False, defaults={"gamma": 0.1, "M": 100}),
    "KLMatching": Entry(_on_logits),
    "OpenMax": Entry(
        _on_logits,
        defaults={"tailsize": 25, "alpha": 10, "euclid_weight": 1.0},
        grid={"tailsize": [25], "alpha": [10], "euclid_weight": [0.5, 1.0]},
    ),
    "TemperatureScaling": Entry(_on_logits),
    "DICE": Entry(_with_weights, defaults={"p": 0.9}),
    "ViM": Entry(_with_weights, defaults={"d": 64}),
    "GMM": Entry(_alone),
    "KNN": Entry(_alone, defaults={"k": 50}, magnitude=1.0),
    "Mahalanobis": Entry(_alone),
    "RMD": Entry(_alone),
    "fDBD": Entry(_with_head),
    "LTS": Entry(_with_head, needs_fit=False),
    "NCI": Entry(_with_head, defaults={"alpha": 0.001}),
    "NNGuide": Entry(_with_head),
    "PNML": Entry(_with_head, magnitude=1.0),
    "SHE": Entry(_with_head),
}

SCORED_BYTES = 2**29
"""What GMM and DICE, which take (rows, K, P), and NNGuide's products with its bank may take at once."""

NNGUIDE_BANK = 65536
"""Rows of its bank that NNGuide compares at once."""

NEED_EVERY_CLASS = ("Mahalanobis", "RMD", "SHE")

GMM_BYTES = 23 * 2**20
"""What GMM takes for a class, measured on 1280 features."""

OPENMAX_CLASSES = 500
"""From here OpenMax fits for minutes: 442 s were measured for 1000 classes."""

_MAPS = "reads feature maps"
_LAYERS = "reads several layers"
_IMAGES = "runs the network on the images again"
EXCLUDED = {
    "ASH": _MAPS,
    "RankFeat": _MAPS,
    "ReAct": _MAPS,
    "SCALE": _MAPS,
    "VRA": _MAPS,
    "Gram": _LAYERS,
    "MultiMahalanobis": _LAYERS,
    "NACUE": _LAYERS,
    "GradNorm": _IMAGES,
    "GradUncertainty": _IMAGES,
    "MCD": _IMAGES,
    "MahalanobisODIN": _IMAGES,
    "ODIN": _IMAGES,
    "MCM": "needs text embeddings of the classes",
    "WeightedEBO": "needs class weights that were trained with it",
    "EnergyBased": "is 'ebo'",
    "MaxLogit": "is 'mls'",
    "MaxSoftmax": "is 'msp'",
}
"""Why a detector of pytorch-ood is not among `names`."""

_CLASSES = classes()


def names() -> list[str]:
    """Names of the detectors that can be used: ``pytorch_ood:`` and the class in lower case."""
    return list(_CLASSES)


def too_large(num_classes: int, memory: int) -> dict[str, str]:
    """Detectors that ``all`` leaves out, with the reason: the classes are too many, or more than half of the memory."""
    found = {}
    if num_classes * GMM_BYTES > memory / 2:
        takes, free = num_classes * GMM_BYTES / 2**30, memory / 2**30
        found[f"{PREFIX}gmm"] = f"takes about {takes:.1f} GB for {num_classes} classes, {free:.1f} GB are free"
    if num_classes >= OPENMAX_CLASSES:
        found[f"{PREFIX}openmax"] = f"fits for minutes with {num_classes} classes"
    return found


def fit_terms(class_name: str) -> dict[str, float]:
    """Bytes that fitting takes at least.

    Its copy of N rows and fDBD's differences w_j - w_k (K, K, P) are in float32; GMM's rows and covariances (K, P, P),
    two copies of these, in float64.
    """
    entry = ENTRIES[class_name]
    terms = {"N K" if entry.reads_logits else "N P": 4.0} if entry.needs_fit else {}
    return {**terms, **{"fDBD": {"K K P": 4.0}, "GMM": {"N P": 12.0, "K P P": 16.0}}.get(class_name, {})}


def fit_bytes(class_name: str, rows: int, num_features: int, num_classes: int) -> int:
    """`fit_terms` in bytes."""
    return Sizes(rows, 0, num_features, num_classes).of(fit_terms(class_name))


def load(name: str) -> DetectorSetup:
    """A detector with the grid that is searched: the library's ``hyperparameter_space``, or the smaller one stated."""
    detector = PytorchOODDetector(_CLASSES[name])
    grid = detector.entry.grid or stored()[detector.class_name]["grid"]
    assert math.prod(map(len, grid.values())) <= LARGEST_GRID
    return DetectorSetup(detector, grid)


class PytorchOODDetector(Detector):
    """A detector of pytorch-ood; score = minus its outlier score. The formula and the paper are those of its class.

    The library fits on whole tensors: all training features (or logits) are in memory once while it does, and for as
    long as the library keeps them.
    """

    def __init__(self, class_name: str, **hyperparameters: Any) -> None:
        self.class_name, self.entry = class_name, ENTRIES[class_name]
        self.hyperparameters = {**self.entry.defaults, **hyperparameters}
        self.name = f"{PREFIX}{class_name.lower()}"
        self.display = display(self.name)
        self.fits_on = FitsOn.BANK if self.entry.needs_fit else FitsOn.NOTHING
        self.fit_reads = tuple(self.hyperparameters)
        self.magnitude = self.entry.magnitude
        published = {"title": class_name, "venue": "pytorch-ood", "year": 0, "url": ""}
        known = stored()[class_name]
        self.paper = Paper(authors=known["authors"], **(known["paper"] or published))

    def hyperparameter_names(self) -> tuple[str, ...]:
        return tuple(self.hyperparameters)

    def get_hyperparameters(self) -> dict[str, Any]:
        return dict(self.hyperparameters)

    def set_hyperparameters(self, **values: Any) -> Detector:
        self.hyperparameters.update(values)
        return self

    def clone(self) -> Detector:
        return PytorchOODDetector(self.class_name, **self.hyperparameters)

    def _fit(self, training: FeatureSplit | None, head: LinearHead, validation: FeatureSplit | None) -> None:
        import pytorch_ood.detector  # seconds

        library_class = getattr(pytorch_ood.detector, self.class_name)
        if self.hyperparameters.get("d", 0) >= head.num_features:  # the library would quietly take another value
            raise PluginError(
                f"detector '{self.name}': d must be below the {head.num_features} features, got"
                f" {self.hyperparameters['d']}"
            )
        # Its two distances are then the same: the library would rank the rounding of their difference.
        self.is_zero_ = False
        if training is not None and self.class_name == "RMD":
            self.is_zero_ = not means_differ(class_means(training, head.num_classes))
        if self.is_zero_:
            return
        if training is not None and self.class_name in NEED_EVERY_CLASS:
            self._check_every_class(training, head.num_classes)
        with _reported(self.name, self.hyperparameters):
            self.detector_ = library_class(**self.entry.arguments(head), **self.hyperparameters)
            if training is not None and self.entry.reads_logits:
                self.detector_.fit_logits(_copy(training, "logits"), training.labels)
            elif training is not None:
                self.detector_.fit_features(_copy(training, "features"), training.labels)
                expand(self.detector_, training.shards[0].features)
        row = {
            "GMM": 16 * head.num_classes * head.num_features,
            "DICE": 8 * head.num_classes * head.num_features,
            "NNGuide": 12 * min(len(training), NNGUIDE_BANK) if training is not None else 0,
        }.get(self.class_name)
        self.block_bytes_ = max(1, SCORED_BYTES // row) * 8 * (head.num_features + head.num_classes) if row else None

    @property
    def memory_terms(self) -> dict[str, float]:
        return fit_terms(self.class_name)

    @property
    def block_bytes(self) -> int | None:  # type: ignore[override]
        return vars(self).get("block_bytes_")

    def check_memory(self, sizes: Sizes) -> None:
        takes, free = fit_bytes(self.class_name, sizes.N, sizes.P, sizes.K), free_memory()
        if takes > free:
            raise PluginError(
                f"detector '{self.name}': takes at least {takes / 1e9:.1f} GB to fit on {sizes.N} rows of"
                f" {sizes.P} features and {sizes.K} classes, {free / 1e9:.1f} GB are free; leave it"
                " out, or free memory"
            )

    def _check_every_class(self, training: FeatureSplit, num_classes: int) -> None:
        """Raise PluginError if a class has no training sample, on which the library fails without a word."""
        present = len(torch.cat([shard.labels for shard in training.shards]).unique())
        if present < num_classes:
            raise PluginError(
                f"detector '{self.name}': needs training samples of every class, {num_classes - present} of"
                f" {num_classes} have none; leave it out, or add images to id/train"
            )

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        if self.is_zero_:
            return torch.zeros_like(logits[:, 0])
        with _reported(self.name, self.hyperparameters, fewer_rows_help=True), torch.no_grad():
            if self.entry.reads_logits:
                outlier = self.detector_.predict_logits(logits.clone())
            else:
                outlier = self.detector_.predict_features(features.clone())
        return -outlier.detach().to(features.device)


@contextmanager
def _reported(name: str, hyperparameters: Mapping[str, Any], fewer_rows_help: bool = False) -> Iterator[None]:
    """Turn whatever the library raises into one line that names the detector and its hyper-parameters.

    That memory ran out is left as it is where ``fewer_rows_help``: `scores_on` tries that.
    """
    try:
        yield
    except Exception as error:
        if fewer_rows_help and ran_out(error):
            raise
        reason = " ".join(str(error).split())[:200] or "pytorch-ood says no more"
        raise PluginError(
            f"detector '{name}' with {hyperparameters or 'no hyper-parameters'}: {type(error).__name__}: {reason}"
        ) from error


def _copy(training: FeatureSplit, field: str) -> Tensor:
    """One copy of all rows: the library may write into what it is given."""
    return torch.cat([getattr(shard, field) for shard in training.shards])
