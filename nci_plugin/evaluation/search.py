"""Hyper-parameters, chosen on the stored validation splits as OpenOOD's evaluator chooses them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import OOD_VALIDATION, TRAIN, VALIDATION, Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import FLOAT32_STEP, Detector, DetectorSetup
from nci_plugin.evaluation.alternatives import Alternatives
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.metrics import auroc

AUTO = "auto"
"""The value of a hyper-parameter that a detector learns; what it learned is its attribute of that name and ``_``."""

Scores = Mapping[str, NDArray[np.floating]]

ROUNDING_STEPS = 8
"""Scores of all samples that lie within so many steps of float32, in which features are kept, differ by rounding."""


@dataclass(frozen=True)
class Fitted:
    """A fitted detector, how its hyper-parameters were chosen, and the seconds that took.

    ``alternatives`` is the record of what other OOD sets would have chosen, see `Alternatives`.
    """

    detector: Detector
    chosen_by: str
    seconds: Mapping[str, float]
    alternatives: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What a detector gave on one network: scores by split, its hyper-parameters, who chose them, seconds by phase."""

    scores: Scores
    hyperparameters: Mapping[str, Any]
    chosen_by: str
    seconds: Mapping[str, float]
    alternatives: Mapping[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """A detector of another library that fits, searches and scores by itself, from a FeatureBank."""

    @property
    def name(self) -> str: ...

    @property
    def fits_on(self) -> FitsOn: ...

    @property
    def sweep(self) -> Mapping[str, Sequence[Any]]: ...

    def answer(self, bank: FeatureBank, benchmark: Benchmark, splits: Sequence[str]) -> Answers:
        """Score the ``splits`` of a bank; raises PluginError if this network's bank does not do."""


def answer(setup: DetectorSetup, bank: FeatureBank, splits: Sequence[str]) -> Answers:
    """Fit a detector, search its hyper-parameters and score the ``splits`` of a bank.

    Raises PluginError on scores that are no ranking (see `check_scores` and `check_ranking`).
    """
    fitted = fit_and_search(setup, bank)
    timer = Timer(fitted.seconds)
    with timer("score"):
        scores = {name: score_split(fitted.detector, bank.splits[name]) for name in splits}
    hyperparameters = chosen_hyperparameters(fitted.detector)
    check_ranking(scores, setup.name, hyperparameters, fitted.detector.magnitude)
    return Answers(scores, hyperparameters, fitted.chosen_by, timer.seconds, fitted.alternatives)


def chosen_hyperparameters(detector: Detector) -> dict[str, Any]:
    """The hyper-parameters that a fitted detector scores with: of one that it learned, as ``auto`` says, the value."""
    given = detector.get_hyperparameters()
    return {name: getattr(detector, f"{name}_", value) if value == AUTO else value for name, value in given.items()}


def fit_and_search(setup: DetectorSetup, bank: FeatureBank) -> Fitted:
    """Fit a detector, with the hyper-parameters of the best AUROC of ``id/val`` against ``ood/val``.

    The grid is tried in OpenOOD's order (the first hyper-parameter varies fastest) and only a strictly better AUROC
    replaces the best, so ties keep the earlier value. Without a sweep, or without both validation splits, the
    configured values stay.
    """
    detector = setup.detector.clone()
    validation, ood_validation = bank.splits.get(VALIDATION), bank.splits.get(OOD_VALIDATION)
    if not setup.sweep or validation is None or ood_validation is None:
        timer = Timer()
        with timer("fit"):
            fit(detector, bank)
        return Fitted(detector, detector.explain_choice() or not_searched(setup.sweep, bank.splits), timer.seconds)
    timer = Timer()
    search = _Search(detector, bank, timer)
    alternatives = Alternatives(bank.splits)

    def validate(values: Mapping[str, Any]) -> float:
        search.fit_with(values)
        with timer("search"):
            id_scores = score_split(detector, validation)
            validated = auroc(id_scores, score_split(detector, ood_validation))
        try:
            others = {name: score_split(detector, split) for name, split in alternatives.splits.items()}
        except Exception:  # a value that fails on a test set may still be the best of ood/val, as without this
            return validated
        alternatives.add(values, id_scores, validated, others)
        return validated

    best, chosen_by = choose(setup.name, setup.sweep, validate)
    search.fit_with(best)
    explained = f"; {detector.explain_choice()}" if detector.explain_choice() else ""
    return Fitted(detector, f"{chosen_by}{explained}", timer.seconds, alternatives.record())


def not_searched(sweep: Mapping[str, Sequence[Any]], splits: Iterable[str]) -> str:
    """How hyper-parameters were chosen that are those of the configuration; ``splits`` are those that are there."""
    missing = [name for name in (VALIDATION, OOD_VALIDATION) if name not in splits]
    if not sweep or not missing:
        return "fixed"
    what = "validation splits" if len(missing) == 2 else f"split '{missing[0]}'"
    return f"fixed (the benchmark has no {what} to search on)"


def choose(
    name: str, sweep: Mapping[str, Sequence[Any]], validate: Callable[[Mapping[str, Any]], float]
) -> tuple[dict[str, Any], str]:
    """The values of ``sweep`` with the best AUROC that ``validate`` gives, and a sentence about the choice.

    A value that a network cannot have, for which ``validate`` raises PluginError, is left out and counted. Raises
    PluginError if none is left.
    """
    tried: dict[int, float] = {}
    refused: list[str] = []
    grid = _grid(sweep)
    for number, values in enumerate(grid):
        try:
            tried[number] = validate(values)
        except PluginError as error:  # e.g. more neighbours than samples
            refused.append(f"{values}: {error}")
    if not tried:
        raise PluginError(f"detector '{name}': no value of its sweep can be used here; first {refused[0]}")
    best = max(tried, key=lambda number: tried[number])  # the first of equals
    skipped = f" ({len(refused)} more cannot be used here)" if refused else ""
    return grid[best], (
        f"search of {len(tried)} values of {', '.join(sweep)}{skipped}: best AUROC of id/val against ood/val,"
        f" {100 * tried[best]:.2f}"
    )


class Timer:
    """Seconds spent in named phases."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = {"fit": 0.0, "search": 0.0, "score": 0.0, **(seconds or {})}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started


@dataclass
class _Search:
    """A detector that is fitted again only when a hyper-parameter that fit reads has changed."""

    detector: Detector
    bank: FeatureBank
    timer: Timer
    fitted_with: dict[str, Any] | None = None

    def fit_with(self, values: Mapping[str, Any]) -> None:
        self.detector.set_hyperparameters(**values)
        chosen = self.detector.get_hyperparameters()
        read = {name: chosen[name] for name in self.detector.fit_reads}
        if read != self.fitted_with:
            self.fitted_with = None  # a fit that fails leaves the detector half fitted
            with self.timer("fit"):
                fit(self.detector, self.bank)
            self.fitted_with = read


def fit(detector: Detector, bank: FeatureBank) -> Detector:
    """Fit a detector on what it needs of the bank."""
    training = {
        FitsOn.NOTHING: None,
        FitsOn.STATISTICS: bank.statistics,
        FitsOn.UNIT_STATISTICS: bank.unit_statistics,
        FitsOn.BANK: bank.splits.get(TRAIN),
    }[detector.fits_on]
    return detector.fit(training, bank.head, bank.splits.get(VALIDATION))


def score_split(detector: Detector, split: FeatureSplit) -> NDArray[np.floating]:
    """Scores (n,) of a split; raises PluginError on those that no metric can rank (see `check_scores`)."""
    parts = [detector.score(chunk.features, chunk.logits).cpu().numpy() for chunk in split.chunks()]
    return check_scores(np.concatenate(parts), detector.name, detector.get_hyperparameters())


def check_scores(scores: NDArray[np.floating], name: str, hyperparameters: Mapping[str, Any]) -> NDArray[np.floating]:
    """The scores; raises PluginError on NaN, infinity and the type's largest number, which no metric can rank."""
    bad = int((~(np.abs(scores) < np.finfo(scores.dtype).max)).sum())
    if bad:
        raise PluginError(
            f"detector '{name}': gave NaN, infinity or the largest {scores.dtype} for {bad} of {len(scores)} samples"
            f" with {dict(hyperparameters) or 'no hyper-parameters'}"
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


def _grid(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations, the first hyper-parameter varying fastest."""
    names = list(sweep)
    return [dict(zip(names, reversed(values))) for values in product(*(sweep[name] for name in reversed(names)))]
