"""The contract that every registered detector keeps; registering one is being tested here."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import pytorch_ood.detector as library
import safetensors.torch
import torch
import twins

from nci_plugin import config, metrics, testing
from nci_plugin.adapters import pytorch_ood
from nci_plugin.checks import PluginError
from nci_plugin.deploy.graph import GRAPHS, graph_of
from nci_plugin.deploy.state import detector_from, state_of
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.evaluation.configuration import file_of
from nci_plugin.evaluation.search import DetectorSetup, fit_and_search
from nci_plugin.features.bank import FitsOn

OWN = registry.names()
ALL = config.detector_names()
SETTINGS = {
    "ebo": [{}, {"temperature": 2.0}],
    "nci": [{}, {"alpha": 0.1}],
    "nci_auto": [{}, {"alpha": 0.1}],
    "nci_l2": [{}, {"alpha": 0.1}],
    "feature_norm": [{"norm": "l1"}, {"norm": "l2"}, {"norm": "linf"}],
    "knn": [{"K": 10}, {"K": 1}],
    "knn_l1": [{"K": 10, "alpha": 0.01}],
    "gen": [{}, {"gamma": 0.5, "M": 3}],
    "fdbd": [{}, {"distance_as_normalizer": False}],
    "react": [{}, {"percentile": 85}],
    "scale": [{}, {"percentile": 65}],
    "dice": [{}, {"p": 50}],
    "nnguide": [{"K": 10}, {"K": 1, "alpha": 1}],
    "vim": [{"dim": 8}, {"dim": 4}],
    "mds_radial": [{}, {"exponent": 0}, {"exponent": 2}],
    "neco": [{}, {"dim": 3}, {"scale": False}, {"max_logit": False, "dim": 0.5}, {"raw_norm": True}],
    "nc5": [{}, {"dim": 3, "max_logit": False}, {"scale": False, "raw_norm": False}],
}
TOY = {"vim": {"dim": 8}, "react": {"percentile": 99}}
"""Of a toy of 5 classes in 32 features, each at 4 in one of them: that clips a class away at 90 %."""
OURS_ALONE = (
    testing.no_rows_no_scores,
    testing.a_larger_score_is_id,
    testing.the_other_samples_do_not_matter,
    testing.float32_is_near_float64,
    testing.an_unknown_hyperparameter_is_an_error,
    testing.what_ends_in_an_underscore_is_enough,
    testing.a_search_gives_a_fitted_detector,
)
"""What detectors of another library need not keep."""

MOST = [check for check in testing.CHECKS if check not in OURS_ALONE]

OWN_SETTINGS = [(name, values) for name in OWN for values in SETTINGS.get(name, [{}])]


def make(name, **values):
    detector = config.load_detector(name).detector
    small = {"k": 10, "K": 10, "d": 4}
    given = {key: value for key, value in small.items() if key in detector.hyperparameter_names()}
    given |= TOY.get(name, {})
    return detector.set_hyperparameters(**{**given, **values})


def fitted(name, toy, **values):
    detector = make(name, **values)
    return toy.fit(detector)


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "values"), OWN_SETTINGS)
def test_ours_keep_the_whole_contract(name, values, check, toy):
    if check is testing.a_larger_score_is_id and values != SETTINGS.get(name, [{}])[0]:
        return  # another setting need not tell these features apart
    check(make(name, **values), toy)


@pytest.mark.parametrize("check", MOST, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", pytorch_ood.names())
def test_those_of_pytorch_ood_keep_most_of_it(name, check, toy):
    check(make(name), toy)


@pytest.mark.parametrize(("name", "values"), OWN_SETTINGS)
def test_stored_and_read_it_gives_the_same_bits(name, values, toy):
    detector = fitted(name, toy, **values)
    expected = toy.score(detector, toy.test)
    state = state_of(detector)
    stored = safetensors.torch.save(state.tensors, {"state": json.dumps(state.values, allow_nan=False)})
    read = detector_from(json.loads(json.dumps(state.values)), safetensors.torch.load(stored), "a file")
    assert torch.equal(toy.score(read, toy.test), expected)
    assert read.get_hyperparameters() == detector.get_hyperparameters()
    assert read.explain_choice() == detector.explain_choice()
    assert torch.equal(toy.score(read, toy.far), toy.score(detector, toy.far))


@pytest.mark.parametrize(("name", "values"), OWN_SETTINGS)
def test_as_a_graph_it_gives_the_same_scores(name, values, toy):
    detector = fitted(name, toy, **values)
    graph = graph_of(detector)
    for features in (toy.test, toy.far, toy.test[:1], toy.test * 100):
        expected = toy.score(detector, features)
        found = graph(features.double(), toy.head.logits(features).double()).float()
        assert found.shape == expected.shape
        assert ((found - expected).abs() <= 1e-4 * expected.abs().clamp(min=1)).all()


@pytest.mark.parametrize("base", sorted(GRAPHS, key=str))
def test_what_is_derived_from_one_with_a_graph_of_its_own_scores_by_its_own_equation(base, toy):
    """The graph of the class that it derives from was taken, so that its module gave other scores."""

    class Doubled(base):
        def _score(self, features, logits):
            return 2 * super()._score(features, logits)

    detector = toy.fit(Doubled(K=10) if "K" in base().hyperparameter_names() else Doubled())
    found = graph_of(detector)(toy.test, toy.head.logits(toy.test))
    assert torch.allclose(found, toy.score(detector, toy.test), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_separates_collapsed_classes_from_their_centre(name, toy):
    detector = fitted(name, toy)
    area = metrics.auroc(toy.score(detector, toy.test).numpy(), toy.score(detector, toy.far).numpy())
    assert area > 0.9, f"AUROC {area:.3f}: is a larger score ID?"


@pytest.mark.parametrize(("name", "values"), OWN_SETTINGS)
def test_equals_the_papers_equation(name, values, toy):
    detector = fitted(name, toy, **values)
    for features in (toy.test, toy.far):
        h, z, train = (t.double().numpy() for t in (features, toy.head.logits(features), toy.train))
        head = (toy.head.weight.double().numpy(), toy.head.bias.double().numpy())
        held_out = tuple(t.double().numpy() for t in (toy.validation.features, toy.validation.logits))
        given = {**detector.get_hyperparameters(), "labels": toy.labels.numpy(), "validation": held_out}
        expected = getattr(twins, name)(h, z, train, head, **given)
        got = toy.score(detector, features).double().numpy()
        assert np.all(np.abs(got - expected) <= 1e-5 * np.maximum(1, np.abs(expected)))


@pytest.mark.parametrize("name", [name for name in OWN if file_of(name)])
def test_yaml_is_in_openoods_shape_and_loads(name):
    raw = config.load_yaml(file_of(name))["postprocessor"]
    assert raw["name"] == name
    assert isinstance(raw["APS_mode"], bool)
    setup = config.load_detector(name)
    assert bool(setup.sweep) == raw["APS_mode"]
    assert set(setup.sweep) <= set(setup.detector.hyperparameter_names())


@pytest.mark.parametrize("name", OWN)
def test_docstring_gives_formula_and_citation(name):
    cls = registry.detector_class(name)
    text = inspect.getdoc(cls) or ""
    assert "score = " in text.lower() or "score=" in text.lower(), "the formula"
    assert any(str(year) in text for year in range(2015, 2027)), "the citation"
    assert cls.paper.year > 2015
    assert cls.paper.url.startswith("https://")


@pytest.mark.parametrize("name", ALL)
def test_refused_values_of_a_sweep_are_skipped_and_counted(name, toy):
    """A search on a bank gives a fitted detector, whatever its grid holds."""
    setup = config.load_detector(name)
    found = fit_and_search(setup, toy.bank)
    assert torch.isfinite(toy.score(found.detector, toy.test)).all()
    if name in ("knn", "pytorch_ood:knn"):
        assert "search of 3 values of k (2 more cannot be used here)" in found.chosen_by.lower()


def test_ties_in_a_search_keep_the_earlier_value(toy):
    setup = DetectorSetup(registry.create("ebo"), {"temperature": [1.0, 1.0000001, 0.9999999]})
    assert fit_and_search(setup, toy.bank).detector.get_hyperparameters() == {"temperature": 1.0}


def test_every_detector_of_pytorch_ood_is_used_or_excluded_with_a_reason():
    known = {*pytorch_ood.ENTRIES, *pytorch_ood.EXCLUDED}
    assert {name for name in library.__all__ if isinstance(getattr(library, name), type)} == known
    assert not set(pytorch_ood.ENTRIES) & set(pytorch_ood.EXCLUDED)
    assert len(pytorch_ood.ENTRIES) >= 13


@pytest.mark.parametrize("name", ["klm", "react", "nci_auto", "nci_gated"])
def test_an_empty_validation_split_calibrates_nothing(name, toy):
    detector = make(name)
    with pytest.raises(PluginError, match=f"'{name}': calibrates on the ID validation split, which is empty; add im"):
        detector.fit(toy.bank.training(detector.fits_on), toy.head, toy.split(toy.test[:0]))


# -------------------------------------------------------------------- a user's own


class Sound(Detector):
    """Score = max_k z_k - alpha ||h - mu_G||_2 (an example, 2026)."""

    name = "sound"
    paper = Paper("An example", "", "this test", 2026, "")
    fits_on = FitsOn.STATISTICS

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def _fit(self, training, head, validation):
        self.mean_ = training.global_mean

    def _score(self, features, logits):
        return logits.amax(dim=1) - self.alpha * (features - self.mean_.to(features)).norm(dim=1)


class LargerIsOOD(Sound):
    """Score with the wrong sign."""

    def _score(self, features, logits):
        return -super()._score(features, logits)


class WritesIntoItsInputs(Sound):
    """Score that changes the features."""

    def _score(self, features, logits):
        return logits.amax(dim=1) - features.sub_(self.mean_.to(features)).norm(dim=1)


class ReadsTheBatch(Sound):
    """Score that depends on the other samples."""

    def _score(self, features, logits):
        return super()._score(features, logits) - 0.001 * logits.amax(dim=1).sum()


class KeepsTheFirstFit(Sound):
    """Score of the first fit."""

    def _fit(self, training, head, validation):
        if not hasattr(self, "mean_"):
            super()._fit(training, head, validation)


class LearnsWithoutUnderscore(Sound):
    """Score whose learned attribute looks like a hyper-parameter."""

    def _fit(self, training, head, validation):
        self.mean = self.mean_ = training.global_mean


class LearnsInPrivate(Sound):
    """Score whose learned attribute no file would keep."""

    def _fit(self, training, head, validation):
        self._mean = training.global_mean

    def _score(self, features, logits):
        return logits.amax(dim=1) - self.alpha * (features - self._mean.to(features)).norm(dim=1)


class WholeNumbers(Sound):
    """Score that is a count."""

    def _score(self, features, logits):
        return (features > self.mean_.to(features)).sum(dim=1)


class NameOfNoFile(Sound):
    """Score under a name that no file can have."""

    name = "sound/1"


class ForgetsItsArgument(Sound):
    """Score whose constructor changes its argument."""

    def __init__(self, alpha=0.1):
        self.alpha = 2 * alpha


class HasNoPaper(Detector):
    """Score = max_k z_k."""

    name = "no_paper"

    def _score(self, features, logits):
        return logits.amax(dim=1)


class OneNumber(HasNoPaper):
    """Score of all samples in one."""

    paper = Sound.paper

    def _score(self, features, logits):
        return logits.max()


def test_a_sound_detector_passes():
    testing.check_detector(Sound)
    testing.check_detector(Sound(alpha=0.0))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (LargerIsOOD, "is a larger score ID"),
        (WritesIntoItsInputs, "changes features in place"),
        (ReadsTheBatch, "what it scores among the others"),
        (KeepsTheFirstFit, "must forget the first"),
        (LearnsWithoutUnderscore, "must end in an underscore, got mean"),
        (LearnsInPrivate, "must be in attributes that end in an underscore, .* no attribute '_mean'"),
        (WholeNumbers, r"one score for each of 200 rows, got shape \(200,\) of torch.int64; give one of torch.float32"),
        (NameOfNoFile, "without slashes, got 'sound/1'"),
        (ForgetsItsArgument, "must store its arguments under their names"),
        (HasNoPaper, "paper must be a nci_plugin.Paper"),
        (OneNumber, r"one score for each of 200 rows, got shape \(\) of torch.float32"),
    ],
)
def test_what_breaks_the_contract_is_named(cls, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_detector(cls)
