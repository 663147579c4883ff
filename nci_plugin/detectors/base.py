"""What every detector is: fitted on statistics or features of the training set, then a score per sample.

The one sign of this package: a `score` is larger for in-distribution (ID) samples.

A file of this package holds the detectors of one paper. Each is a sub-class of `Detector` under ``@register_detector``
whose docstring gives the formula and the citation; the file is found by being there.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Union

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_keys, check_width, plain_number
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import CHUNK_ROWS, FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.machine import free_memory
from nci_plugin.networks.calling import without_autocast
from nci_plugin.networks.head import LinearHead

Training = Union[ClassStatistics, FeatureSplit, None]

CPU = torch.device("cpu")

DEVICE_BLOCK_BYTES = 2**26
"""Below that a GPU would wait for the start of each operation longer than it computes."""

SCORE_TYPES = (torch.float16, torch.float32, torch.float64)
"""Those that numpy has too, and that NaN and infinity can be looked for in."""

AUTO = "auto"
"""The value of a hyper-parameter that a detector learns; what it learned is its attribute of that name and ``_``."""


@dataclass(frozen=True)
class Sizes:
    """What memory is reckoned from: N training rows, V rows of id/val, P features and K classes."""

    N: int
    V: int
    P: int
    K: int

    def of(self, terms: Mapping[str, float]) -> int:
        """The sum of products such as ``{"P P": 48}``, of these and of R, the rows that are scored at once."""
        values = {**vars(self), "R": CHUNK_ROWS}
        return int(sum(count * math.prod(values[each] for each in term.split()) for term, count in terms.items()))


FIT_MEMORY: Mapping[str, float] = {"P P": 48, "K P": 24, "K K": 24}
SCORE_MEMORY: Mapping[str, float] = {"K P": 16, "R P": 64, "R K": 32}
"""Bytes that any of our detectors takes at most to fit on statistics, and to fit and score by blocks of rows: so many
copies in float64 of the covariance, class means and their distances; of weights, features and logits of a block."""


@dataclass(frozen=True)
class Paper:
    """The publication that a detector comes from; a detector without one has year 0."""

    title: str
    authors: str
    venue: str
    year: int
    url: str

    def __str__(self) -> str:
        return f"{self.authors or self.title}, {self.venue} {self.year or ''}".strip()


class Detector(ABC):
    """A post-hoc detector of OOD samples.

    The constructor stores hyper-parameters, `fit` learns attributes that end in ``_``, `score` reads them. A number of
    any library is stored as Python's int or float. Sub-classes write ``_fit`` and ``_score`` and say what they fit on;
    ``fit_reads`` names the hyper-parameters that ``_fit`` looks at, since a search must fit again only when one of
    those changes. ``magnitude`` is the size of the numbers that a score is the difference of, where that
    may be far above its own: scores that differ by rounding of it are refused.
    With ``block_bytes`` ``_score`` sees so many rows at a time that a copy of them in float64 has up to that size: one
    that makes several copies stays in a processor's cache. On another device the size is at least DEVICE_BLOCK_BYTES.
    ``any_device`` says that ``_score`` answers on whatever device the features are, where `score` brings the tensors
    that were learned, and ``_fit`` learns on that of the training features, as those of this package do; others get
    them on the CPU.
    ``display`` is how papers write the ``name``, which it is where a class does not say it.
    ``per_row`` is what the time of scoring a row grows with, a product of `Sizes`.
    ``formula`` counts the versions of the equation under one name: scores of two versions are not to be compared.
    ``caches`` names the mappings in which it keeps something of the rows that it scored: no part of what it learned.
    """

    name: str
    display: str
    paper: Paper
    fits_on: FitsOn = FitsOn.NOTHING
    fit_reads: tuple[str, ...] = ()
    magnitude: float = 0.0
    block_bytes: int | None = None
    any_device: bool = False
    formula: int = 1
    caches: tuple[str, ...] = ()
    per_row: str = "P"

    num_features_: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "display" not in vars(cls):  # that of a parent is another detector's
            cls.display = getattr(cls, "name", "")
        if "any_device" not in vars(cls):
            cls.any_device = cls.__module__.startswith("nci_plugin.detectors.")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, plain_number(value))

    @without_autocast()
    def fit(self, training: Training, head: LinearHead, validation: FeatureSplit | None = None) -> Detector:
        """Learn from the training set.

        Args:
            training: what ``fits_on`` says: nothing (None), ClassStatistics of the features or of their `unit_rows`, or
                the training features themselves, which are learned from on their ``device`` (see `runs_on`). What was
                learned lies on the CPU.
            head: the classifier's last linear layer, W (K, P) and b (K,).
            validation: features of the ID validation split, for detectors that calibrate on them; never OOD samples.

        Raises PluginError if ``training`` is of the wrong kind or of another width than the head.
        """
        if self.fits_on is not FitsOn.NOTHING:
            wanted = FeatureSplit if self.fits_on is FitsOn.BANK else ClassStatistics
            if not isinstance(training, wanted):
                raise PluginError(
                    f"detector '{self.name}': fits on {wanted.__name__} of the training set,"
                    f" got {type(training).__name__}; extract the benchmark's training split"
                )
            if not (len(training) if isinstance(training, FeatureSplit) else training.num_samples):
                raise PluginError(f"detector '{self.name}': the training set holds no sample; pass one that has some")
            if training.num_features != head.num_features:
                raise PluginError(
                    f"detector '{self.name}': the head expects {head.num_features} features, the training set has"
                    f" {training.num_features}; both must come from the same network"
                )
            unit = self.fits_on is FitsOn.UNIT_STATISTICS
            if unit and isinstance(training, ClassStatistics) and not training.has_unit_rows:
                raise PluginError(
                    f"detector '{self.name}': fits on statistics of features of length 1, got other lengths; pass"
                    " those of unit_rows(features)"
                )
        self.check_hyperparameters()
        if self.needs_validation and not validation:
            lacks = "missing; add id/val to the benchmark" if validation is None else "empty; add images to it"
            raise PluginError(
                f"detector '{self.name}': calibrates on the ID validation split, which is {lacks}, or give its"
                " hyper-parameters as numbers"
            )
        rows = len(training) if isinstance(training, FeatureSplit) else 0
        self.check_memory(Sizes(rows, len(validation or ()), head.num_features, head.num_classes))
        device = CPU
        if isinstance(training, FeatureSplit):
            device = self.runs_on(training.device or CPU)
            training = training.to(device)
        self._fit(training, head.to(device), None if validation is None else validation.to(device))
        learned = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        vars(self).update({name: value.detach().to(CPU) for name, value in learned.items()})
        self.num_features_ = head.num_features
        return self

    @without_autocast()
    def score(self, features: Tensor, logits: Tensor) -> Tensor:
        """Score (n,) of features (n, P) with logits (n, K); larger = ID. Inputs are left as they are.

        Raises PluginError before `fit` and on features of another width.
        """
        if not hasattr(self, "num_features_"):
            raise PluginError(f"detector '{self.name}': not fitted; call fit(training, head) before score")
        check_width(f"detector '{self.name}'", features, self.num_features_)
        if features.device.type == "mps":  # it has no float64
            return self.score(features.cpu(), logits.cpu()).to(features.device)
        rows = len(features)
        if self.block_bytes is not None:
            most = self.block_bytes if features.device.type == "cpu" else max(self.block_bytes, DEVICE_BLOCK_BYTES)
            rows = max(1, most // (8 * (features.shape[1] + logits.shape[1])))
        there = self.on(features.device)
        scores = [there._score(*block) for block in zip(features.split(rows), logits.split(rows))]
        for score, block in zip(scores, features.split(rows)):
            if not isinstance(score, Tensor) or score.shape != block.shape[:1] or score.dtype not in SCORE_TYPES:
                is_tensor = isinstance(score, Tensor)
                came = f"shape {tuple(score.shape)} of {score.dtype}" if is_tensor else type(score).__name__
                raise PluginError(
                    f"detector '{self.name}': _score must give a tensor of one score for each of {len(block)} rows, got"
                    f" {came}; give one of torch.float32"
                )
        return scores[0] if len(scores) == 1 else torch.cat(scores)

    def on(self, device: torch.device) -> Detector:
        """Itself, or a shallow copy with the tensors that it learned on ``device`` where they are elsewhere."""
        learned = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        if all(value.device == device for value in learned.values()):
            return self
        there = copy.copy(self)
        vars(there).update({name: value.to(device) for name, value in learned.items()})
        return there

    def runs_on(self, device: torch.device) -> torch.device:
        """Where it computes if asked for ``device``: on the CPU in place of MPS, which has no float64, or of any."""
        return device if self.any_device and device.type != "mps" else CPU

    def _fit(self, training: Any, head: LinearHead, validation: FeatureSplit | None) -> None:  # noqa: B027
        """Learn; nothing to learn unless a sub-class says so."""

    @abstractmethod
    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        """Score (n,), larger = ID."""

    # ---------------------------------------------------------------- hyper-parameters

    def hyperparameter_names(self) -> tuple[str, ...]:
        """Names of the constructor's arguments, in order."""
        if type(self).__init__ is object.__init__:
            return ()
        return tuple(inspect.signature(type(self)).parameters)

    def get_hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters by name, as they are set: one that `fit` learns is ``auto`` here."""
        return {name: getattr(self, name) for name in self.hyperparameter_names()}

    def set_hyperparameters(self, **values: Any) -> Detector:
        """Change hyper-parameters; raises PluginError on an unknown name."""
        check_keys(f"detector '{self.name}'", values, self.hyperparameter_names())
        for name, value in values.items():
            setattr(self, name, value)
        self.check_hyperparameters()
        return self

    def check_hyperparameters(self) -> None:  # noqa: B027
        """Raise PluginError on a value that is not allowed; called before anything long starts."""

    def clone(self) -> Detector:
        """A detector with the same hyper-parameters that has learned nothing."""
        return type(self)(**self.get_hyperparameters())

    @property
    def needs_validation(self) -> bool:
        """Whether `fit` must have the features of the ID validation split, with the present hyper-parameters."""
        return False

    @property
    def least_training(self) -> int:
        """The fewest training rows that it can score with, with the present hyper-parameters."""
        return 0

    @property
    def memory(self) -> Mapping[str, float]:
        """Bytes that it takes beyond FIT_MEMORY and SCORE_MEMORY, as `Sizes.of` takes them; a class may set them."""
        return {}

    @property
    def memory_terms(self) -> dict[str, float]:
        """All bytes that fit and score take at most beside the features, as `Sizes.of` takes them."""
        fit = {} if self.fits_on is FitsOn.NOTHING else FIT_MEMORY
        parts = (fit, SCORE_MEMORY, self.memory)
        return {term: sum(part.get(term, 0) for part in parts) for term in dict.fromkeys(chain(*parts))}

    def check_memory(self, sizes: Sizes) -> None:
        """Raise PluginError where more memory may be needed than is free: the system would end the whole command."""
        takes, free = sizes.of(self.memory_terms), free_memory()
        if takes > free:
            raise PluginError(
                f"detector '{self.name}': takes up to {takes / 1e9:.1f} GB for {sizes.N} training and {sizes.V}"
                f" validation rows of {sizes.P} features and {sizes.K} classes, {free / 1e9:.1f} GB are free; leave it"
                " out, or free memory"
            )

    def explain_choice(self) -> str:
        """How a hyper-parameter that fit itself chose was chosen; empty where there is none."""
        return ""


FLOAT32_STEP = torch.finfo(torch.float32).eps
"""Features are kept in float32: a spread below this times their length is rounding."""


def in_range_of(scores: Tensor, like: Tensor) -> Tensor:
    """Scores in the type and on the device of ``like``, clipped to the largest number of that type."""
    limit = torch.finfo(like.dtype).max
    return scores.clamp(-limit, limit).to(like)
