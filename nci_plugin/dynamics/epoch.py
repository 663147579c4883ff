"""One network of a training run in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from nci_plugin.checks import check_number

NUMBERS = ("train_loss", "train_accuracy", "test_accuracy", "weight_norm")
"""Fields of an EpochRecord that are one number each."""

ORTHO_DEV = "ortho_dev"

Value = Optional[float]
Probe = Optional[Mapping[str, Any]]


@dataclass(frozen=True)
class EpochRecord:
    """One network of a run, after ``epoch`` epochs (0: before the first). Raises PluginError on NaN or infinity.

    Args:
        train_loss: mean over the training set, in the unit of the loss (nats for cross-entropy).
        train_accuracy, test_accuracy: percent.
        collapse: the collapse metrics of one number by name; None where a metric has no value.
        weight_norm: ||.||_2 over all parameters.
        auroc: percent, by detector and group (GROUPS).
        probe: numbers of a robustness probe or of any other measurement.
        phase: of a training in phases, e.g. ``ce`` and then ``mse``.
        train_from: what train_loss and train_accuracy were read from.
        ortho_dev: NC5 by group of OOD sets, ``near`` and ``far``, the unweighted mean over its sets; 0 at collapse.
        weights, data, methods: digests of what the numbers come from: the weights that were measured; the benchmark's
            images and the network's code; and by name the detectors, their values and formulas.
    """

    epoch: int
    train_loss: Value = None
    train_accuracy: Value = None
    test_accuracy: Value = None
    collapse: Mapping[str, Value] = field(default_factory=dict)
    weight_norm: Value = None
    auroc: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    probe: Probe = None
    phase: str = ""
    train_from: str = ""
    weights: str = ""
    data: str = ""
    methods: Mapping[str, str] = field(default_factory=dict)
    ortho_dev: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("trajectory: epoch", self.epoch, least=0, whole=True)
        _check_numbers(f"trajectory: epoch {self.epoch}", asdict(self))

    @property
    def numbers(self) -> dict[str, Value]:
        """Losses and accuracies, the collapse metrics, and ``ortho_dev near`` and ``ortho_dev far``, by name."""
        ortho_dev = {f"{ORTHO_DEV} {group}": value for group, value in self.ortho_dev.items()}
        return {**{name: getattr(self, name) for name in NUMBERS}, **self.collapse, **ortho_dev}


def _check_numbers(where: str, value: Any) -> None:
    """Raise unless all leaves are finite numbers, None or text."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _check_numbers(f"{where}: {key}", each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_numbers(where, each)
    elif value is not None and not isinstance(value, (str, bool)):
        check_number(where, value)
