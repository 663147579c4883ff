"""The contract of a detector, held against one class: ``check_detector(MyDetector)``.

>>> from nci_plugin.detectors import MSP
>>> from nci_plugin.testing import check_detector
>>> check_detector(MSP)
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_row_name
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.evaluation.search import DetectorSetup, fit_and_search
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead

SMALL = {"K": 10, "k": 10, "d": 4}
"""Values of hyper-parameters that count neighbours or dimensions: their defaults are more than these features have."""


class CollapsedFeatures:
    """Features of a collapsed network: near K orthogonal class means, those of OOD samples near their centre."""

    def __init__(self, num_classes: int = 5, num_features: int = 32, per_class: int = 40, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        means = torch.eye(num_features)[:num_classes] * 4 + 0.5
        weight = (means - means.mean(0)) / 2
        self.head = LinearHead(weight, torch.randn(num_classes, generator=generator) * 0.1, "ToyNet")
        self.labels = torch.arange(num_classes).repeat_interleave(per_class)
        self.train = self.rows(means[self.labels], generator)
        self.test = self.rows(means[self.labels], generator)
        self.far = self.rows(means.mean(0).repeat(len(self.labels), 1) * 0.5, generator)
        self.statistics = self.statistics_of(self.train, self.labels)
        self.unit_statistics = self.statistics_of(unit_rows(self.train), self.labels)

    @staticmethod
    def rows(means: Tensor, generator: torch.Generator) -> Tensor:
        return (means + 0.3 * torch.randn(means.shape, generator=generator)).relu()

    def statistics_of(self, features: Tensor, labels: Tensor) -> ClassStatistics:
        return ClassStatistics(self.head.num_classes, self.head.num_features).update(features, labels)

    def split(self, features: Tensor, labels: Tensor | None = None) -> FeatureSplit:
        labels = torch.full((len(features),), -1) if labels is None else labels
        return FeatureSplit.of(features, self.head.logits(features), labels)

    @property
    def bank(self) -> FeatureBank:
        splits = {
            "id/train": self.split(self.train, self.labels),
            "id/val": self.split(self.test, self.labels),
            "ood/val": self.split(self.far),
        }
        return FeatureBank(self.head, splits, self.statistics, unit_statistics=self.unit_statistics)

    @property
    def validation(self) -> FeatureSplit:
        return self.split(self.test[::2])

    def fit(self, detector: Detector) -> Detector:
        return detector.fit(self.bank.training(detector.fits_on), self.head, self.validation)

    def score(self, detector: Detector, features: Tensor) -> Tensor:
        return detector.score(features, self.head.logits(features))


def check_detector(detector: Detector | type[Detector]) -> None:
    """Hold a detector, or a class of them with its defaults, to what every detector of this package keeps.

    It is fitted and scored on features made for this, of five classes in 32 dimensions; hyper-parameters ``K``, ``k``
    and ``d`` that are too large for them are taken smaller. Raises PluginError on what is no detector, AssertionError
    that says what is not kept, and whatever else the detector's own code raises.
    """
    made = registry.as_detector(detector)
    small = {name: value for name, value in SMALL.items() if name in made.hyperparameter_names()}
    for check in CHECKS:
        detector = made.clone().set_hyperparameters(**{**made.get_hyperparameters(), **small})
        try:
            check(detector, CollapsedFeatures())
        except PluginError as error:  # of the base class, as on scores of another shape
            raise AssertionError(str(error)) from error


def _require(condition: bool, detector: Detector, message: str) -> None:
    if not condition:
        raise AssertionError(f"detector '{detector.name}': {message}")


def _require_close(got: Tensor, expected: Tensor, detector: Detector, message: str, tolerance: float = 1e-5) -> None:
    difference = (got.double() - expected.double()).abs() / expected.double().abs().clamp(min=1)
    largest = float(difference.max())
    _require(largest <= tolerance, detector, f"{message}; scores differ by {largest:.2g} of max(1, |score|)")


def _require_error(call: Callable[[], object], words: str, detector: Detector, when: str) -> None:
    try:
        call()
    except PluginError as error:
        _require(words in str(error), detector, f"{when}, the error must say '{words}', got '{error}'")
    else:
        _require(False, detector, f"{when}, there must be a PluginError; was `fit` or `score` overridden, not `_fit`?")


# -------------------------------------------------------------------- what is kept


def is_described(detector: Detector, data: CollapsedFeatures) -> None:
    _require(bool(type(detector).__doc__), detector, "the class has no docstring; give the formula and the citation")
    check_row_name(f"detector '{detector.name}'", detector.name)
    _require(isinstance(getattr(detector, "paper", None), Paper), detector, "paper must be a nci_plugin.Paper")
    unknown = set(detector.fit_reads) - set(detector.hyperparameter_names())
    _require(not unknown, detector, f"fit_reads names no hyper-parameters: {', '.join(sorted(unknown))}")


def one_finite_score_a_sample(detector: Detector, data: CollapsedFeatures) -> None:
    scores = data.score(data.fit(detector), data.test)
    shape = tuple(data.test.shape[:1])
    _require(tuple(scores.shape) == shape, detector, f"scores must have the shape {shape}, got {tuple(scores.shape)}")
    _require(bool(torch.isfinite(scores).all()), detector, "scores must be finite")
    shape = tuple(data.score(detector, data.test[:1]).shape)
    _require(shape == (1,), detector, f"the score of one sample must have the shape (1,), got {shape}")


def no_rows_no_scores(detector: Detector, data: CollapsedFeatures) -> None:
    shape = tuple(data.score(data.fit(detector), data.test[:0]).shape)
    _require(shape == (0,), detector, f"the scores of no sample must have the shape (0,), got {shape}")


def inputs_are_left_alone(detector: Detector, data: CollapsedFeatures) -> None:
    training, features = data.bank.training(detector.fits_on), data.test.clone()
    logits = data.head.logits(features)
    inputs = {
        "features": features,
        "logits": logits,
        "W": data.head.weight,
        "b": data.head.bias,
        "the training features": data.train,
    }
    before = copy.deepcopy(inputs)
    detector.fit(training, data.head, data.validation).score(features, logits)
    for name, tensor in inputs.items():
        _require(torch.equal(tensor, before[name]), detector, f"`_fit` or `_score` changes {name} in place; copy first")


def refit_is_a_fresh_fit(detector: Detector, data: CollapsedFeatures) -> None:
    expected = data.score(data.fit(detector.clone()), data.test)
    other = CollapsedFeatures(seed=1)
    other.head = LinearHead(data.head.weight * 0.7, data.head.bias + 1)
    other.train = data.test * 2
    other.statistics = data.statistics_of(other.train, data.labels)
    other.unit_statistics = data.statistics_of(unit_rows(other.train), data.labels)
    got = data.score(data.fit(other.fit(detector)), data.test)
    _require(torch.equal(got, expected), detector, "a second `fit` must forget the first, its scores are others")


def a_larger_score_is_id(detector: Detector, data: CollapsedFeatures) -> None:
    area = auroc(*(data.score(data.fit(detector), rows).numpy() for rows in (data.test, data.far)))
    message = f"AUROC {area:.3f} for collapsed classes against samples near their centre: is a larger score ID?"
    _require(area > 0.5, detector, message)


def not_fitted_is_an_error(detector: Detector, data: CollapsedFeatures) -> None:
    _require_error(lambda: data.score(detector, data.test), "not fitted", detector, "before `fit`")


def another_width_is_an_error(detector: Detector, data: CollapsedFeatures) -> None:
    words, features = "expected features of shape (n, 32), got (3, 31)", torch.zeros(3, 31)
    data.fit(detector)
    _require_error(lambda: detector.score(features, torch.zeros(3, 5)), words, detector, "on features of another width")


def wrong_training_is_an_error(detector: Detector, data: CollapsedFeatures) -> None:
    if detector.fits_on is FitsOn.NOTHING:
        return
    text: object = "features"
    fit: Callable[..., object] = detector.fit
    _require_error(lambda: fit(text, data.head), "fits on", detector, "fitted on a text")
    narrow, training = LinearHead(torch.zeros(5, 31), torch.zeros(5)), data.bank.training(detector.fits_on)
    _require_error(lambda: fit(training, narrow), "the head expects 31 features", detector, "with a narrower head")
    if detector.fits_on is FitsOn.UNIT_STATISTICS:
        words, when = "features of length 1", "fitted on statistics of other lengths"
        _require_error(lambda: fit(data.statistics, data.head), words, detector, when)


def the_other_samples_do_not_matter(detector: Detector, data: CollapsedFeatures) -> None:
    whole = data.score(data.fit(detector), data.test)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(1))
    for size, words in ((1, "alone"), (7, "in batches of 7")):
        parts = torch.cat([data.score(detector, rows) for rows in data.test.split(size)])
        _require_close(parts, whole, detector, f"a sample must score {words} what it scores among the others")
    shuffled = data.score(detector, data.test[order])
    _require_close(shuffled, whole[order], detector, "the order of the samples must not matter")


def float32_is_near_float64(detector: Detector, data: CollapsedFeatures) -> None:
    single = data.score(data.fit(detector), data.test)
    double = detector.score(data.test.double(), data.head.logits(data.test).double())
    _require_close(single, double, detector, "float32 must be near float64", tolerance=2e-5)


def merged_statistics_are_those_of_all(detector: Detector, data: CollapsedFeatures) -> None:
    if detector.fits_on not in (FitsOn.STATISTICS, FitsOn.UNIT_STATISTICS):
        return
    train = unit_rows(data.train) if detector.fits_on is FitsOn.UNIT_STATISTICS else data.train
    first, second = (data.statistics_of(train[rows], data.labels[rows]) for rows in (slice(0, 70), slice(70, None)))
    whole = data.score(data.fit(detector), data.test)
    merged = data.score(detector.fit(first.merge(second), data.head, data.validation), data.test)
    _require_close(merged, whole, detector, "statistics of two halves, merged, must give what those of all give")


def hyperparameters_round_trip(detector: Detector, data: CollapsedFeatures) -> None:
    values, clone = detector.get_hyperparameters(), detector.clone()
    _require(clone is not detector, detector, "`clone` must make another object")
    got = clone.get_hyperparameters()
    _require(got == values, detector, f"the constructor must store its arguments under their names: {got} for {values}")
    got = clone.set_hyperparameters(**values).get_hyperparameters()
    _require(got == values, detector, f"`set_hyperparameters` must store the values given: {got} for {values}")


def an_unknown_hyperparameter_is_an_error(detector: Detector, data: CollapsedFeatures) -> None:
    set_unknown = lambda: detector.set_hyperparameters(no_such_hyperparameter=1)  # noqa: E731
    _require_error(set_unknown, "unknown key 'no_such_hyperparameter'", detector, "with an unknown hyper-parameter")


def what_is_learned_ends_in_an_underscore(detector: Detector, data: CollapsedFeatures) -> None:
    before = set(vars(detector))
    wrong = [name for name in vars(data.fit(detector)) if name not in before and name[0] != "_" != name[-1]]
    _require(not wrong, detector, f"attributes that `_fit` learns must end in an underscore, got {', '.join(wrong)}")


def what_ends_in_an_underscore_is_enough(detector: Detector, data: CollapsedFeatures) -> None:
    expected = data.score(data.fit(detector), data.test)
    stored = detector.clone()
    vars(stored).update({name: value for name, value in vars(detector).items() if name[-1] == "_" != name[0]})
    vars(stored).update({name: {} for name in detector.caches})
    message = "what `_score` reads must be in attributes that end in an underscore, all that a file of it keeps"
    try:
        got = data.score(stored, data.test)
    except AttributeError as error:
        raise AssertionError(f"detector '{detector.name}': {message}: {error}") from error
    _require(torch.equal(got, expected), detector, message)


def a_search_gives_a_fitted_detector(detector: Detector, data: CollapsedFeatures) -> None:
    sweep = {name: [value, value] for name, value in detector.get_hyperparameters().items()}
    found = fit_and_search(DetectorSetup(detector, sweep), data.bank).detector
    scores = data.score(found, data.test)
    _require(bool(torch.isfinite(scores).all()), detector, "a search must leave a detector that gives finite scores")
    if not detector.needs_validation:
        expected = data.score(data.fit(detector), data.test)
        _require(torch.equal(scores, expected), detector, "a search of one value must give what a fit with it gives")


CHECKS: tuple[Callable[[Detector, CollapsedFeatures], None], ...] = (
    is_described,
    hyperparameters_round_trip,
    one_finite_score_a_sample,
    no_rows_no_scores,
    inputs_are_left_alone,
    refit_is_a_fresh_fit,
    a_larger_score_is_id,
    not_fitted_is_an_error,
    another_width_is_an_error,
    wrong_training_is_an_error,
    the_other_samples_do_not_matter,
    float32_is_near_float64,
    merged_statistics_are_those_of_all,
    an_unknown_hyperparameter_is_an_error,
    what_is_learned_ends_in_an_underscore,
    what_ends_in_an_underscore_is_enough,
    a_search_gives_a_fitted_detector,
)
