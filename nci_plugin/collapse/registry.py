"""The collapse metrics: a decorated function each, from which every table, figure and column is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional, TypeVar, Union

Ideal = Optional[Union[float, Callable[[int], float]]]
F = TypeVar("F", bound=Callable[..., Any])

EPOCHS, STAGES = "epochs", "stages"
"""Where a metric can have a column of its own: along training, and stage by stage in a network."""


@dataclass(frozen=True)
class Metric:
    """A function of what a network left, and how its value is called, read and shown.

    Args:
        name: the field of CollapseMetrics and the key in every file.
        label, symbol: its row in the table of a diagnosis, and its column, where that must be short.
        function: the equation, with its paper in its docstring; it raises Undefined where it has no value.
        of: what the function takes, by name: attributes of `measure.Inputs` for metrics of the training set;
            ``training``, its FeatureSplit, for those of epoch records; ``held_out``, each ID split but that, and
            ``split``, each split of a diagnosis, OOD included.
        aspect: ``NC1`` to ``NC5``, or what else it is about; metrics of one aspect share a panel of a figure.
        ideal: the value at exact collapse, or a function that gives it for K classes; None where it has none.
        frame: the frame whose value that is, where it is not the simplex but one of K orthogonal vectors.
        larger: more collapsed is larger; elsewise it is smaller.
        simplex: the value at collapse is out of reach where there is no simplex ETF, for K > P + 1.
        per_class: a value for each class (K,) instead of one.
        along: those of EPOCHS and STAGES in which it has a column.
    """

    name: str
    label: str
    symbol: str
    function: Callable[..., Any]
    of: tuple[str, ...]
    aspect: str
    ideal: Ideal = None
    frame: str = ""
    larger: bool = False
    simplex: bool = False
    per_class: bool = False
    along: tuple[str, ...] = ()

    def at_collapse(self, num_classes: int, num_features: int | None = None) -> float | None:
        """The value at exact collapse of ``num_classes`` classes, None where there is none.

        With ``num_features`` also None where it is out of reach in that many features.
        """
        spanned = num_classes - 1 if self.simplex else num_classes if self.frame else 0
        if num_features is not None and spanned > num_features:
            return None
        if not callable(self.ideal):
            return self.ideal
        return self.ideal(num_classes) if num_classes > 1 else None

    @property
    def reads_head(self) -> bool:
        return any(name.startswith("weight") for name in self.of)

    @property
    def of_features(self) -> bool:
        """Whether it reads features, instead of statistics and head alone."""
        return not {"training", "held_out", "split"}.isdisjoint(self.of)


METRICS: dict[str, Metric] = {}
"""Every collapse metric by name, in the order of every table."""

BEYOND: dict[str, Metric] = {}
"""Metrics of what is no balanced classifier, by name: other targets, tokens, stages, attacks, inputs.

They take what they say in ``of``; no table or epoch record has them. ``function.field`` is a field of what it returns.
"""


def metric(
    label: str, symbol: str = "", *, of: str, name: str = "", into: dict[str, Metric] = METRICS, **values: Any
) -> Callable[[F], F]:
    """Decorator: the function of what ``of`` names, separated by spaces, is a metric; ``values`` are as of `Metric`.

    ``name`` is the function's own where none is given, the aspect the first word of the label; ``into`` is METRICS or
    BEYOND. One function can be several metrics, which are registered from the lowest decorator up.
    """

    def registered(function: F) -> F:
        chosen = name or function.__name__
        if chosen in METRICS or chosen in BEYOND:
            taken = METRICS.get(chosen) or BEYOND[chosen]
            raise ValueError(f"collapse metric '{chosen}' is taken by {taken.function.__qualname__}")
        into[chosen] = Metric(
            chosen, label, symbol or chosen, function, tuple(of.split()), **{"aspect": label.split()[0], **values}
        )
        return function

    return registered


def of_training(per_class: bool = False) -> list[Metric]:
    """The metrics of the training set: those of one number, which epoch records hold, or those ``per_class``."""
    return [m for m in METRICS.values() if m.per_class == per_class and not {"held_out", "split"} & set(m.of)]


def columns(along: str) -> dict[str, Metric]:
    """The metrics that have a column along EPOCHS or STAGES, by name."""
    return {name: metric for name, metric in METRICS.items() if along in metric.along}
