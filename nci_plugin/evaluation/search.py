"""Hyper-parameters, chosen on the stored validation splits as OpenOOD's evaluator chooses them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from nci_plugin.benchmarks.benchmark import OOD_VALIDATION, VALIDATION, Benchmark
from nci_plugin.checks import PluginError, check_keys, plain_number, shown
from nci_plugin.detectors.base import AUTO, CPU, Detector
from nci_plugin.detectors.registry import as_detector
from nci_plugin.evaluation.alternatives import SEARCHED, Alternatives
from nci_plugin.evaluation.contestant import Answers, Contestant, check_ranking
from nci_plugin.evaluation.precision import shift
from nci_plugin.evaluation.scoring import check_same_fit, ran_out, score_split, score_splits
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.metrics import auroc

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectorSetup:
    """A detector with the values to search: OpenOOD's ``postprocessor_args`` and ``postprocessor_sweep``.

    ``sweep`` maps a hyper-parameter's name to its values, in the order in which they are tried; empty = no search.
    ``name`` is that of its rows and files, the detector's own unless given: two settings of one detector that share a
    run have a name each. Equal are setups of one class, one name and the same values. Raises PluginError on what is no
    detector, and on a sweep that is no list of values of its hyper-parameters.
    """

    detector: Detector
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detector", as_detector(self.detector))
        object.__setattr__(self, "name", self.name or self.detector.name)
        check_keys(f"detector '{self.name}': sweep", self.sweep, self.detector.hyperparameter_names())
        sweep = {name: values.tolist() if hasattr(values, "tolist") else values for name, values in self.sweep.items()}
        for name, values in sweep.items():
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                where = f"detector '{self.name}': sweep of {name}"
                raise PluginError(f"{where} must be a list of values, got {shown(values)}")
            sweep[name] = [plain_number(value) for value in values]
            for value in sweep[name]:
                self.detector.clone().set_hyperparameters(**{name: value})
        object.__setattr__(self, "sweep", sweep)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DetectorSetup) and self._values() == other._values()

    __hash__ = None  # type: ignore[assignment]  # its values can be lists

    def _values(self) -> tuple[Any, ...]:
        cls = type(self.detector)
        return cls.__module__, cls.__qualname__, self.name, self.configured, dict(self.sweep)

    @property
    def fits_on(self) -> FitsOn:
        """What the detector must be given of the training set."""
        return self.detector.fits_on

    @property
    def configured(self) -> Mapping[str, Any]:
        """The hyper-parameters with which nothing is searched, by name."""
        return self.detector.get_hyperparameters()

    def answer(self, bank: FeatureBank, benchmark: Benchmark, splits: Sequence[str]) -> Answers:
        """Fit the detector, search its hyper-parameters and score the ``splits`` of a bank.

        Where the pass was in a coarser precision, its first rows in float32 are scored too, for the shift. Raises
        PluginError on scores that are no ranking (see `check_scores` and `check_ranking`).
        """
        fitted = fit_and_search(self, bank)
        timer, where = Timer(fitted.seconds), (bank.processes, bank.device)
        with timer("score"):
            check_same_fit(fitted.detector, bank.splits[splits[0]], *where)
            scores = score_splits(fitted.detector, {name: bank.splits[name] for name in splits}, *where)
            in_float32 = {name: bank.float32[name] for name in splits if name in bank.float32}
            exact = score_splits(fitted.detector, in_float32, *where) if in_float32 else {}
        hyperparameters = chosen_hyperparameters(fitted.detector)
        check_ranking(scores, self.name, hyperparameters, fitted.detector.magnitude)
        moved = shift(scores, exact) if exact else {}
        return Answers(scores, hyperparameters, fitted.chosen_by, timer.seconds, moved, fitted.alternatives)


@dataclass(frozen=True)
class Fitted:
    """A fitted detector, how its hyper-parameters were chosen, and the seconds that took.

    ``alternatives`` is the record of what other OOD sets would have chosen, see `Alternatives`.
    """

    detector: Detector
    chosen_by: str
    seconds: Mapping[str, float]
    alternatives: Mapping[str, Any] = field(default_factory=dict)


def detector_of(contestant: Contestant) -> Detector:
    """The detector of a contestant; raises PluginError for one that cannot score single samples."""
    if contestant.detector is None:
        raise PluginError(f"detector '{contestant.name}': scores whole benchmarks, not one image; leave it out")
    return contestant.detector


def chosen_hyperparameters(detector: Detector) -> dict[str, Any]:
    """The hyper-parameters that a fitted detector scores with: of one that it learned, as ``auto`` says, the value."""
    given = detector.get_hyperparameters()
    return {name: getattr(detector, f"{name}_", value) if value == AUTO else value for name, value in given.items()}


def fit_and_search(setup: Contestant, bank: FeatureBank) -> Fitted:
    """Fit a detector, with the hyper-parameters of the best AUROC of ``id/val`` against ``ood/val``.

    The grid is tried in OpenOOD's order (the first hyper-parameter varies fastest) and only a strictly better AUROC
    replaces the best, so ties keep the earlier value. Without a sweep, or without both validation splits, the
    configured values stay. Raises PluginError where no value can be used.
    """
    detector, timer = detector_of(setup).clone(), Timer()
    validation, ood_validation = bank.splits.get(VALIDATION), bank.splits.get(OOD_VALIDATION)
    fitted_with: dict[str, Any] | None = None

    def fit_with(values: Mapping[str, Any]) -> None:
        """Fit, but only where a hyper-parameter that fit reads has changed."""
        nonlocal fitted_with
        chosen = detector.set_hyperparameters(**values).get_hyperparameters()
        read = {name: chosen[name] for name in detector.fit_reads}
        if read != fitted_with:
            fitted_with = None  # a fit that fails leaves the detector half fitted
            with timer("fit"):
                fit(detector, bank)
            fitted_with = read

    if not setup.sweep or validation is None or ood_validation is None:
        fit_with({})
        chosen_by = detector.explain_choice() or not_searched(setup.sweep, bank.splits)
        return Fitted(detector, chosen_by, timer.seconds)
    id_split, ood_split = validation, ood_validation
    alternatives = Alternatives(bank.splits)

    def validate(values: Mapping[str, Any]) -> float:
        fit_with(values)
        with timer("search"):
            pair = {VALIDATION: id_split, OOD_VALIDATION: ood_split}
            id_scores, ood_scores = score_splits(detector, pair, bank.processes, bank.device).values()
            validated = auroc(id_scores, ood_scores)
        score = partial(score_split, detector, processes=bank.processes, device=bank.device)
        alternatives.add(values, id_scores, validated, score)
        return validated

    best, chosen_by = choose(setup.name, setup.sweep, validate)
    fit_with(best)
    told = "; ".join(filter(None, (chosen_by, detector.explain_choice())))
    return Fitted(detector, told, timer.seconds, alternatives.record())


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
    # The first hyper-parameter varies fastest.
    grid = [dict(zip(sweep, reversed(values))) for values in product(*reversed(list(sweep.values())))]
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
        f"{SEARCHED} {len(tried)} values of {', '.join(sweep)}{skipped}: best AUROC of id/val against ood/val,"
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


def fit(detector: Detector, bank: FeatureBank) -> Detector:
    """Fit a detector on what it needs of the bank, in every process: what it learns need not travel.

    Training features are learned from on the bank's device, or on the CPU where its memory runs out.
    """

    def fit_on(device: torch.device) -> None:
        training = bank.training(detector.fits_on)
        training = training.to(device) if isinstance(training, FeatureSplit) else training
        detector.fit(training, bank.head, bank.splits.get(VALIDATION))

    def learn() -> dict[str, Tensor]:
        try:
            fit_on(bank.device)
            return {}
        except (RuntimeError, MemoryError) as error:
            if detector.runs_on(bank.device) == CPU or not ran_out(error):
                raise
        logger.warning("detector '%s': the memory of %s ran out, it fits on the CPU", detector.name, bank.device)
        fit_on(CPU)
        return {}

    bank.processes.together(learn)
    return detector
