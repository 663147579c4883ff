"""What takes part in an evaluation, whoever wrote it, and what it must answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import FLOAT32_STEP, Detector
from nci_plugin.features.bank import FeatureBank, FitsOn

Scores = Mapping[str, NDArray[np.floating]]

ROUNDING_STEPS = 8
"""Scores of all samples that lie within so many steps of float32, in which features are kept, differ by rounding."""


@dataclass(frozen=True)
class Answers:
    """What a contestant gave on one network: scores by split, its hyper-parameters, who chose them, seconds by phase.

    ``shift`` says how far a coarser precision of the pass moved the scores (`precision.shift`); empty in float32.
    ``alternatives`` is the record of what other OOD sets would have chosen (`Alternatives`); empty without a search.
    """

    scores: Scores
    hyperparameters: Mapping[str, Any]
    chosen_by: str
    seconds: Mapping[str, float]
    shift: Mapping[str, float] = field(default_factory=dict)
    alternatives: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Contestant(Protocol):
    """A method of any library that fits, searches and scores on a `FeatureBank`.

    ``name`` is that of its rows and files. ``configured`` are its hyper-parameters where nothing is searched, and
    ``sweep`` maps those that are searched to their values. ``detector`` is the `Detector` that can score single
    samples, None where a method scores whole benchmarks only.
    """

    @property
    def name(self) -> str: ...

    @property
    def fits_on(self) -> FitsOn: ...

    @property
    def sweep(self) -> Mapping[str, Sequence[Any]]: ...

    @property
    def configured(self) -> Mapping[str, Any]: ...

    @property
    def detector(self) -> Detector | None: ...

    def answer(self, bank: FeatureBank, benchmark: Benchmark, splits: Sequence[str]) -> Answers:
        """Score the ``splits`` of a bank; raises PluginError if this network's bank does not do."""


def check_scores(scores: NDArray[np.floating], name: str, hyperparameters: Mapping[str, Any]) -> NDArray[np.floating]:
    """The scores; raises PluginError on NaN, infinity and the type's largest number, which no metric can rank."""
    bad = int((~(np.abs(scores) < np.finfo(scores.dtype).max)).sum())
    if bad:
        raise PluginError(
            f"detector '{name}': gave NaN, infinity or the largest {scores.dtype} for {bad} of {len(scores)} samples"
            f" with {dict(hyperparameters) or 'no hyper-parameters'}; leave it out"
        )
    return scores


def check_ranking(scores: Scores, name: str, hyperparameters: Mapping[str, Any], magnitude: float = 0.0) -> None:
    """Raise PluginError if the scores of all splits differ by no more than rounding, which no metric should rank.

    Rounding is up to `ROUNDING_STEPS` of float32 at the largest of them, or at ``magnitude`` (see `Detector`).
    Scores that are exactly the same pass: every metric sees the tie (an AUROC of 50 %).
    """
    filled = [values for values in scores.values() if len(values)]
    if not filled:
        return
    low, high = min(float(values.min()) for values in filled), max(float(values.max()) for values in filled)
    if 0 < high - low <= ROUNDING_STEPS * FLOAT32_STEP * max(abs(low), abs(high), magnitude):
        raise PluginError(
            f"detector '{name}': gave every sample the same score but for rounding, with"
            f" {dict(hyperparameters) or 'no hyper-parameters'}; it ranks nothing here, leave it out"
        )
