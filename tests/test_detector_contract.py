"""The contract that every registered detector keeps; registering one is being tested here."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import pytorch_ood.detector as library
import torch
import twins

from nci_plugin import config, metrics
from nci_plugin.adapters import pytorch_ood
from nci_plugin.checks import PluginError
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import DetectorSetup
from nci_plugin.evaluation.search import fit_and_search
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.networks.head import LinearHead

OWN = registry.names()
STATISTICS = (FitsOn.STATISTICS, FitsOn.UNIT_STATISTICS)
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
UNIT = [name for name in OWN if registry.detector_class(name).fits_on is FitsOn.UNIT_STATISTICS]
OWN_SETTINGS = [(name, values) for name in OWN for values in SETTINGS.get(name, [{}])]


def split(head, features, labels=None):
    labels = torch.full((len(features),), -1) if labels is None else labels
    return FeatureSplit.of(features, head.logits(features), labels)


def training(detector, toy):
    return {
        FitsOn.NOTHING: None,
        FitsOn.STATISTICS: toy.statistics,
        FitsOn.UNIT_STATISTICS: toy.unit_statistics,
        FitsOn.BANK: split(toy.head, toy.train, toy.labels),
    }[detector.fits_on]


def validation(toy):
    return split(toy.head, toy.test[::2])


def make(name, **values):
    detector = config.load_detector(name).detector
    small = {"k": 10, "K": 10, "d": 4}
    given = {key: value for key, value in small.items() if key in detector.hyperparameter_names()}
    given |= TOY.get(name, {})
    return detector.set_hyperparameters(**{**given, **values})


def fitted(name, toy, **values):
    detector = make(name, **values)
    return detector.fit(training(detector, toy), toy.head, validation(toy))


def score(detector, toy, features):
    return detector.score(features, toy.head.logits(features))


@pytest.mark.parametrize("name", ALL)
def test_one_finite_score_a_sample(name, toy):
    scores = score(fitted(name, toy), toy, toy.test)
    assert scores.shape == (len(toy.test),)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", ALL)
def test_no_rows_no_scores_and_one_row_one_score(name, toy):
    detector = fitted(name, toy)
    assert score(detector, toy, toy.test[:1]).shape == (1,)
    if name in OWN:
        assert score(detector, toy, toy.test[:0]).shape == (0,)


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_left_alone(name, toy):
    detector = make(name)
    data = training(detector, toy)
    features, head = toy.test.clone(), copy.deepcopy(toy.head)
    logits = head.logits(features)
    before = [t.clone() for t in (features, logits, head.weight, head.bias, toy.train)]
    detector.fit(data, head, validation(toy)).score(features, logits)
    for tensor, kept in zip((features, logits, head.weight, head.bias, toy.train), before):
        assert torch.equal(tensor, kept)


@pytest.mark.parametrize("name", ALL)
def test_refit_is_a_fresh_fit(name, toy):
    other_head = LinearHead(toy.head.weight * 0.7, toy.head.bias + 1)
    other = split(other_head, toy.test * 2, toy.labels)
    detector = make(name)
    shape = toy.head.num_classes, toy.head.num_features
    statistics = ClassStatistics(*shape).update(toy.test * 2, toy.labels)
    unit = ClassStatistics(*shape).update(unit_rows(toy.test), toy.labels)
    given = {FitsOn.STATISTICS: statistics, FitsOn.UNIT_STATISTICS: unit, FitsOn.BANK: other}
    detector.fit(given.get(detector.fits_on), other_head, other)
    detector.fit(training(detector, toy), toy.head, validation(toy))
    assert torch.equal(score(detector, toy, toy.test), score(fitted(name, toy), toy, toy.test))


@pytest.mark.parametrize("name", OWN)
def test_separates_collapsed_classes_from_their_centre(name, toy):
    detector = fitted(name, toy)
    area = metrics.auroc(score(detector, toy, toy.test).numpy(), score(detector, toy, toy.far).numpy())
    assert area > 0.9, f"AUROC {area:.3f}: is a larger score ID?"


@pytest.mark.parametrize("name", ALL)
def test_not_fitted_is_an_error(name, toy):
    with pytest.raises(PluginError, match="not fitted"):
        score(make(name), toy, toy.test)


@pytest.mark.parametrize("name", ALL)
def test_wrong_width_names_expected_and_got(name, toy):
    with pytest.raises(PluginError, match=r"expected features of shape \(n, 32\), got \(3, 31\)"):
        fitted(name, toy).score(torch.zeros(3, 31), torch.zeros(3, 5))


@pytest.mark.parametrize("name", [n for n in ALL if config.load_detector(n).detector.fits_on is not FitsOn.NOTHING])
def test_wrong_training_is_an_error(name, toy):
    with pytest.raises(PluginError, match="fits on"):
        make(name).fit("features", toy.head)
    head = LinearHead(torch.zeros(5, 31), torch.zeros(5))
    with pytest.raises(PluginError, match="the head expects 31 features"):
        make(name).fit(training(make(name), toy), head)


@pytest.mark.parametrize("name", UNIT)
def test_statistics_of_other_lengths_are_an_error(name, toy):
    with pytest.raises(PluginError, match="features of length 1"):
        make(name).fit(toy.statistics, toy.head)


@pytest.mark.parametrize(("name", "values"), OWN_SETTINGS)
def test_equals_the_papers_equation(name, values, toy):
    detector = fitted(name, toy, **values)
    for features in (toy.test, toy.far):
        h, z, train = (t.double().numpy() for t in (features, toy.head.logits(features), toy.train))
        head = (toy.head.weight.double().numpy(), toy.head.bias.double().numpy())
        held_out = tuple(t.double().numpy() for t in (validation(toy).features, validation(toy).logits))
        given = {**detector.get_hyperparameters(), "labels": toy.labels.numpy(), "validation": held_out}
        expected = getattr(twins, name)(h, z, train, head, **given)
        got = score(detector, toy, features).double().numpy()
        assert np.all(np.abs(got - expected) <= 1e-5 * np.maximum(1, np.abs(expected)))


@pytest.mark.parametrize(("name", "values"), OWN_SETTINGS)
def test_same_score_alone_in_batches_and_shuffled(name, values, toy):
    detector = fitted(name, toy, **values)
    whole = score(detector, toy, toy.test)
    order = torch.randperm(len(toy.test), generator=torch.Generator().manual_seed(1))
    alone = torch.cat([score(detector, toy, row[None]) for row in toy.test])
    batches = torch.cat([score(detector, toy, rows) for rows in toy.test.split(7)])
    shuffled = score(detector, toy, toy.test[order])
    for other, expected in ((alone, whole), (batches, whole), (shuffled, whole[order])):
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "values"), OWN_SETTINGS)
def test_float32_is_near_float64(name, values, toy):
    detector = fitted(name, toy, **values)
    double = detector.score(toy.test.double(), toy.head.logits(toy.test).double())
    torch.testing.assert_close(score(detector, toy, toy.test).double(), double.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "values"),
    [each for each in OWN_SETTINGS if registry.detector_class(each[0]).fits_on in STATISTICS],
)
def test_fit_of_merged_statistics_is_fit_of_all(name, values, toy):
    detector = make(name, **values)
    train = unit_rows(toy.train) if name in UNIT else toy.train
    halves = [
        ClassStatistics(toy.head.num_classes, toy.head.num_features).update(train[part], toy.labels[part])
        for part in (slice(0, 70), slice(70, None))
    ]
    merged = detector.fit(halves[0].merge(halves[1]), toy.head, validation(toy))
    torch.testing.assert_close(score(merged, toy, toy.test), score(fitted(name, toy, **values), toy, toy.test))


@pytest.mark.parametrize("name", ALL)
def test_hyperparameters_round_trip(name):
    detector = make(name)
    values = detector.get_hyperparameters()
    assert detector.clone().set_hyperparameters(**values).get_hyperparameters() == values
    assert detector.clone() is not detector
    if name in OWN:
        assert registry.create(name, **values).get_hyperparameters() == values
        with pytest.raises(PluginError, match="unknown key 'beta'"):
            detector.set_hyperparameters(beta=1)


@pytest.mark.parametrize("name", OWN)
def test_yaml_is_in_openoods_shape_and_loads(name):
    path = config.config_directory() / "postprocessors" / f"{name}.yml"
    raw = config.load_yaml(path)["postprocessor"]
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
    bank = FeatureBank(
        toy.head,
        {
            "id/train": split(toy.head, toy.train, toy.labels),
            "id/val": split(toy.head, toy.test, toy.labels),
            "ood/val": split(toy.head, toy.far),
        },
        toy.statistics,
        unit_statistics=toy.unit_statistics,
    )
    found = fit_and_search(setup, bank)
    assert torch.isfinite(score(found.detector, toy, toy.test)).all()
    if name in ("knn", "pytorch_ood:knn"):
        assert "search of 3 values of k (2 more cannot be used here)" in found.chosen_by.lower()


def test_ties_in_a_search_keep_the_earlier_value(toy):
    bank = FeatureBank(
        toy.head,
        {"id/val": split(toy.head, toy.test, toy.labels), "ood/val": split(toy.head, toy.far)},
        toy.statistics,
    )
    setup = DetectorSetup(registry.create("ebo"), {"temperature": [1.0, 1.0000001, 0.9999999]})
    assert fit_and_search(setup, bank).detector.get_hyperparameters() == {"temperature": 1.0}


def test_every_detector_of_pytorch_ood_is_used_or_excluded_with_a_reason():
    known = {*pytorch_ood.ENTRIES, *pytorch_ood.EXCLUDED}
    assert {name for name in library.__all__ if isinstance(getattr(library, name), type)} == known
    assert not set(pytorch_ood.ENTRIES) & set(pytorch_ood.EXCLUDED)
    assert len(pytorch_ood.ENTRIES) >= 13
