"""ora where its short form cancels, and where no angle is defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import twins

from nci_plugin.checks import PluginError
from nci_plugin.detectors import registry
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead


def fitted(head, train):
    labels = torch.arange(len(train)) % head.num_classes
    return registry.create("ora").fit(ClassStatistics(head.num_classes, head.num_features).update(train, labels), head)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("aside", [1e-3, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_features_along_the_line_through_two_classes(aside, offset):
    """Collapsed on two classes, h - mu is nearly along w_0 - w_1: what lies across it is lost in float32 logits."""
    weight = random(2, 64)
    head = LinearHead(weight, torch.tensor([0.3, -0.2]))
    train = random(400, 64, seed=1) + offset
    direction = weight[0] - weight[1]
    rows = train.mean(0) + random(200, 1, seed=2) * direction + aside * random(200, 64, seed=3)
    logits = head.logits(rows)
    exact = (rows.double() @ weight.double().T + head.bias.double()).numpy()
    clear = np.abs(exact[:, 0] - exact[:, 1]) > 1e-3  # the same class is predicted
    expected = twins.ora(rows.double().numpy(), exact, train.double().numpy(), (weight.double().numpy(), None))
    got = fitted(head, train).score(rows, logits).numpy()
    assert clear.sum() > 190
    np.testing.assert_allclose(got[clear], expected[clear], atol=2e-5)


def test_known_angles():
    """Boundary x = 0, mean (1, 0): seen from there, (1, 1) and its projection (0, 1) are 45 degrees apart."""
    head = LinearHead(torch.tensor([[1.0, 0], [-1, 0]]), torch.zeros(2))
    detector = fitted(head, torch.tensor([[0.0, 0], [2, 0]]))
    rows = torch.tensor([[1.0, 1], [2, 0], [0, 3], [1, 0]])
    # beyond the mean: pi, as the projection lies on its other side; on the boundary: 0; the mean itself: 0
    expected = torch.tensor([math.pi / 4, math.pi, 0, 0])
    torch.testing.assert_close(detector.score(rows, head.logits(rows)), expected)
    assert detector.score(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 0  # h is its own projection


def test_a_mean_on_the_boundary_gives_no_angle_to_it():
    head = LinearHead(torch.tensor([[1.0, 0], [-1, 0]]), torch.zeros(2))
    detector = fitted(head, torch.tensor([[-1.0, 0], [1, 0]]))
    rows = torch.tensor([[5.0, 0], [5, 5]])
    torch.testing.assert_close(detector.score(rows, head.logits(rows)), torch.tensor([0, math.pi / 4]))


def test_classes_of_equal_weights_have_no_boundary():
    head = LinearHead(random(4, 8), torch.zeros(4))
    twice = LinearHead(head.weight[[0, 1, 2, 3, 0, 3]], torch.zeros(6))
    train, rows = random(60, 8, seed=1), random(50, 8, seed=2)
    expected = fitted(head, train).score(rows, head.logits(rows))
    torch.testing.assert_close(fitted(twice, train).score(rows, twice.logits(rows)), expected)
    parallel = LinearHead(head.weight[[0, 0]], torch.tensor([0.0, -1]))
    assert not fitted(parallel, train).score(rows, parallel.logits(rows)).any()


def test_the_mean_itself_scores_0_whatever_the_rounding():
    train = random(500, 64, seed=1) + 3
    head = LinearHead(random(10, 64), random(10, seed=4))
    detector = fitted(head, train)
    mean = detector.mean_[None]
    assert detector.score(mean, head.logits(mean.float()).double()).item() == 0


def test_extreme_features_have_finite_scores():
    head = LinearHead(random(4, 8), torch.zeros(4))
    rows = torch.stack([torch.full((8,), value) for value in (3e38, -3e38, 1e-38, 0.0)])
    scores = fitted(head, random(60, 8, seed=1)).score(rows, torch.zeros(4, 4))
    assert torch.isfinite(scores).all()


def test_one_class_has_no_boundary():
    with pytest.raises(PluginError, match="needs a decision boundary"):
        fitted(LinearHead(torch.ones(1, 3), torch.zeros(1)), torch.ones(2, 3))
