"""mds_pp and rmds_pp beyond the contract's toy set: real features, missing classes, dead units, extremes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance

from nci_plugin.checks import PluginError
from nci_plugin.detectors import registry
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.networks.head import LinearHead

NAMES = ("mds_pp", "rmds_pp")


def fitted(name, features, labels, head):
    statistics = ClassStatistics(head.num_classes, head.num_features).update(unit_rows(features), labels)
    return registry.create(name).fit(statistics, head)


@pytest.mark.parametrize("split", ["id/test", "near/near", "far/far"])
def test_scores_equal_the_authors_recipe(golden, split):
    """Mahalanobis distances by scikit-learn, of real features divided by their lengths."""
    train, labels = golden.features("train").features, golden.features("train").labels
    rows = golden.tensor(f"features/{split.split('/')[1]}")
    unit_train, unit_test = (
        x.double().numpy() / np.linalg.norm(x.double(), axis=1, keepdims=True) for x in (train, rows)
    )
    means = np.stack([unit_train[labels == k].mean(0) for k in range(6)])
    within = EmpiricalCovariance(assume_centered=True).fit(unit_train - means[labels])
    nearest = np.min([within.mahalanobis(unit_test - mean) for mean in means], axis=0)
    background = EmpiricalCovariance().fit(unit_train).mahalanobis(unit_test)
    for name, expected in (("mds_pp", -nearest), ("rmds_pp", background - nearest)):
        got = fitted(name, train, labels, golden.head).score(rows, golden.head.logits(rows).double())
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * np.abs(background).max())


@pytest.mark.parametrize("name", NAMES)
def test_the_length_of_a_feature_does_not_count(name, toy):
    detector = fitted(name, toy.train * torch.rand(len(toy.train), 1).add(0.1), toy.labels, toy.head)
    plain = fitted(name, toy.train, toy.labels, toy.head)
    scores = [each.score(rows, toy.head.logits(rows)) for each, rows in ((detector, toy.test * 1e6), (plain, toy.test))]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_never_came_is_no_class(name, toy):
    """Its mean of zeros would be the nearest one of the features between the classes."""
    head = LinearHead(torch.cat([toy.head.weight, torch.zeros(1, 32)]), torch.cat([toy.head.bias, torch.ones(1)]))
    detector = fitted(name, toy.train, toy.labels, head)
    expected = fitted(name, toy.train, toy.labels, toy.head)
    for rows in (toy.test, toy.far):
        got = detector.score(rows, head.logits(rows))
        torch.testing.assert_close(got, expected.score(rows, toy.head.logits(rows)))


@pytest.mark.parametrize("name", NAMES)
def test_a_direction_without_variance_is_left_out(name, toy):
    wide = LinearHead(torch.cat([toy.head.weight, torch.zeros(5, 1)], 1), toy.head.bias)
    detector = fitted(name, torch.cat([toy.train, torch.zeros(len(toy.train), 1)], 1), toy.labels, wide)
    rows = torch.cat([toy.test, torch.zeros(len(toy.test), 1)], 1)
    expected = fitted(name, toy.train, toy.labels, toy.head).score(toy.test, toy.head.logits(toy.test))
    torch.testing.assert_close(detector.score(rows, wide.logits(rows)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_features_have_finite_scores(name, toy):
    rows = torch.stack([torch.full((32,), value) for value in (3e38, -3e38, 1e-38, 1e-45, 0.0)])
    scores = fitted(name, toy.train, toy.labels, toy.head).score(rows, torch.zeros(5, 5))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[0], scores[2])


def test_features_that_do_not_vary_are_refused(toy):
    rows = torch.eye(32)[:5].repeat(2, 1)
    with pytest.raises(PluginError, match="do not vary within classes"):
        fitted("mds_pp", rows, torch.arange(5).repeat(2), toy.head)
    with pytest.raises(PluginError, match="needs a class of two samples"):
        fitted("rmds_pp", toy.train[::40], toy.labels[::40], toy.head)
