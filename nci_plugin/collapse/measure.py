"""All collapse metrics of one network, from ClassStatistics and LinearHead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, check_number
from nci_plugin.collapse.geometry import RCOND, Undefined, between_directions, centred_means, chords, present_classes
from nci_plugin.collapse.imbalance import is_minority
from nci_plugin.collapse.registry import METRICS, Metric, of_training
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

SHOWN = ("nc1_quotient", "nc2_etf_error", "nc3_self_duality")
"""Metrics in the line that a measurement prints as."""


def shown_values(values: Mapping[str, Any]) -> str:
    """Those of `SHOWN` that have a value, as text."""
    known = {name: values.get(name) for name in SHOWN}
    return ", ".join(f"{name}={value:.4g}" for name, value in known.items() if value is not None)


class Inputs:
    """What `Metric.of` may name, of one network: K classes that came, P features, all in float64 on the CPU."""

    def __init__(
        self,
        statistics: ClassStatistics,
        head: LinearHead,
        mean: str = "classes",
        rcond: float = RCOND,
        training: FeatureSplit | None = None,
    ) -> None:
        self.statistics, self.mean, self.rcond, self.training = statistics, mean, rcond, training
        self.classes = present_classes(statistics)
        self.count = len(self.classes)
        self.counts = statistics.counts[self.classes]  # (K,)
        self.raw = statistics.means[self.classes]  # mu_k, (K, P)
        self.centred = centred_means(statistics, mean)  # mu_k - mu_G, (K, P)
        self.weight = head.weight.detach().cpu().double()[self.classes]  # (K, P)

    @cached_property
    def between(self) -> tuple[Tensor, Tensor]:
        return between_directions(self.centred, self.rcond)

    @cached_property
    def centred_chords(self) -> Tensor:
        return chords(self.centred)

    @cached_property
    def weight_chords(self) -> Tensor:
        return chords(self.weight)


@dataclass(frozen=True)
class CollapseMetrics:
    """Neural collapse of one network in numbers; each metric of METRICS is an attribute: ``metrics.nc1_quotient``.

    Everything is over the classes that have samples; absent ones are masked, and a note says so. ``classes`` lists
    them, and values per class follow its order, those of weights too. A metric that has no value here is None, and
    ``notes`` gives the reason under its name; a value that must be read with care has a note too. ``values`` holds the
    metrics by name: numbers, or tuples of a number (None where it has none) for each class.
    """

    num_classes: int  # of the head; those without samples are left out of all that follows
    num_features: int
    num_samples: int
    mean_convention: str  # mu_G is the mean of the class means ("classes") or of all samples ("samples")
    rcond: float  # eigenvalues of Sigma_B up to this share of the largest are zero to nc1_pinv
    etf_exists: bool  # K <= P + 1
    classes: tuple[int, ...]
    class_counts: tuple[int, ...]
    between_rank: int  # of Sigma_B, by rcond
    minority_classes: tuple[int, ...]  # smaller than sqrt(largest * smallest); none where class sizes hardly differ
    values: Mapping[str, Any]
    notes: Mapping[str, str]

    def __repr__(self) -> str:
        size = f"{len(self.classes)} classes, {self.num_features} features, {self.num_samples} samples"
        return f"CollapseMetrics({size}: {shown_values(self.values) or 'no value'}; see .values)"

    def __getattr__(self, name: str) -> Any:
        """A metric by its name."""
        values = self.__dict__.get("values", {})
        if name in values:
            return values[name]
        raise AttributeError(f"CollapseMetrics has no '{name}'; it has {', '.join(values)}")

    def to_dict(self) -> dict[str, Any]:
        """Fields and metrics by name, in one level, ready for JSON: no NaN, no infinity."""
        return {**{name: value for name, value in vars(self).items() if name != "values"}, **self.values}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> CollapseMetrics:
        """What `to_dict` gave, by this version or an earlier one, which had not all metrics: those are None.

        Raises PluginError where a field is missing.
        """
        names = [name for name in cls.__dataclass_fields__ if name != "values"]
        missing = [name for name in names if name not in saved]
        if missing:
            raise PluginError(f"collapse: '{missing[0]}' is missing")
        metrics = [*of_training(), *of_training(per_class=True)]
        values: dict[str, Any] = {metric.name: None for metric in metrics if not metric.of_features}
        values.update({name: value for name, value in saved.items() if name not in names})
        return cls(**{name: saved[name] for name in names}, values=values)


def measure(
    statistics: ClassStatistics,
    head: LinearHead,
    mean: str = "classes",
    rcond: float = RCOND,
    training: FeatureSplit | None = None,
) -> CollapseMetrics:
    """Neural collapse of a network from statistics of its training features, in float64.

    Args:
        statistics: of the features of every training sample, K classes, P features.
        head: the last layer, W (K, P).
        mean: mu_G is the mean of the class means (``classes``, as in the papers) or of all samples (``samples``).
        rcond: share of its largest eigenvalue up to which an eigenvalue of Sigma_B is zero to the pseudo-inverse.
        training: the training features themselves; without them the metrics that need them (NC4) are left out.

    Raises PluginError if the two do not belong together or hold nothing. Needs O(K^2 + P^2) memory.
    """
    check_number("collapse: rcond", rcond, least=0)
    _check_head(head, statistics)
    inputs = Inputs(statistics, head, mean, rcond, training)
    etf_exists = inputs.count <= head.num_features + 1
    notes = _notes(inputs, head, etf_exists)
    metrics = [m for m in (*of_training(), *of_training(per_class=True)) if training is not None or not m.of_features]
    values = {m.name: _value(m, inputs, notes) for m in metrics}
    try:
        between_rank = len(inputs.between[0])
    except Undefined:
        between_rank = 0
    return CollapseMetrics(
        num_classes=head.num_classes,
        num_features=head.num_features,
        num_samples=statistics.num_samples,
        mean_convention=mean,
        rcond=rcond,
        etf_exists=etf_exists,
        classes=tuple(inputs.classes.tolist()),
        class_counts=tuple(map(int, inputs.counts.tolist())),
        between_rank=between_rank,
        minority_classes=tuple(inputs.classes[is_minority(inputs.counts)].tolist()),
        values=values,
        notes=notes,
    )


def _check_head(head: LinearHead, statistics: ClassStatistics) -> None:
    shape = (statistics.num_classes, statistics.num_features)
    if tuple(head.weight.shape) != shape:
        raise PluginError(
            f"collapse: the statistics are of {shape[0]} classes and {shape[1]} features, the head has"
            f" {head.num_classes} and {head.num_features}; both must come from the same network"
        )
    check_finite("collapse: squared weight of the head", head.weight.double().square())


def _value(metric: Metric, inputs: Inputs, notes: dict[str, str]) -> Any:
    """A number, or a tuple of a number for each class; None where there is no value, with the reason in ``notes``.

    This is the one place where what an equation cannot answer becomes None.
    """
    try:
        result = torch.as_tensor(metric.function(*(getattr(inputs, name) for name in metric.of)), dtype=torch.float64)
    except Undefined as reason:
        notes[metric.name] = str(reason)
        return None
    if not (result.isfinite() | (result.isnan() & metric.per_class)).all():  # NaN: that class has no value
        notes[metric.name] = "collapse: the value is beyond the range of float64"
        return None
    return tuple(None if v != v else v for v in result.tolist()) if metric.per_class else result.item()


def _notes(inputs: Inputs, head: LinearHead, etf_exists: bool) -> dict[str, str]:
    """What must be known to read the values of these classes."""
    notes = {}
    absent, single = head.num_classes - inputs.count, int((inputs.counts == 1).sum())
    if absent:
        notes["classes"] = (
            f"{absent} of {head.num_classes} classes have no training sample;"
            f" they are masked, every metric is of the other {inputs.count}"
        )
    if single:
        notes["class_variances"] = (
            f"{single} of {inputs.count} classes have one sample and so no variance:"
            " nc1_cdnv leaves them out, to nc1_pinv and nc1_quotient they add nothing"
        )
    if not etf_exists:
        text = (
            f"{inputs.count} classes in {head.num_features} features: no simplex ETF exists for K > P + 1,"
            " so the value at collapse cannot be reached; gnc2 still compares networks"
        )
        notes.update({metric.name: text for metric in METRICS.values() if metric.simplex})
    return notes
