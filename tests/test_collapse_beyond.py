"""What an attack does to features, and geometric complexity, by hand; the registry of what is no classifier."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from nci_plugin.checks import PluginError
from nci_plugin.collapse import BEYOND, METRICS, Undefined, metric
from nci_plugin.collapse.complexity import geometric_complexity
from nci_plugin.collapse.leap import leap

MEANS = torch.tensor([[0.0, 0], [4, 0], [0, 2]])


def test_a_leap_by_hand() -> None:
    """From mean 0: three quarters of the way to mean 1; the whole way to mean 2; beside the way to 1, which is none."""
    clean = torch.zeros(3, 2)
    attacked = torch.tensor([[3.0, 0], [0, 2], [0, -1]])
    found = leap(clean, attacked, torch.tensor([0, 0, 0]), torch.tensor([1, 2, 1]), MEANS)
    assert found.at_target == pytest.approx(2 / 3)
    assert found.displacement == pytest.approx((0.75 + 1 + 0) / 3)


def test_what_is_no_leap_is_refused() -> None:
    rows, one = torch.zeros(2, 2), torch.tensor([1, 1])
    with pytest.raises(PluginError, match="the class must have changed"):
        leap(rows, rows, one, one, MEANS)
    with pytest.raises(PluginError, match="got 2 clean and 1 attacked"):
        leap(rows, rows[:1], one, one, MEANS)
    with pytest.raises(PluginError, match=r"leap: targets: label 3 at row 0 is outside 0\.\.2"):
        leap(rows, rows, one, one + 2, MEANS)
    with pytest.raises(Undefined, match="no image has changed"):
        leap(rows[:0], rows[:0], one[:0], one[:0], MEANS)
    with pytest.raises(Undefined, match="two class means are equal"):
        leap(rows, rows, one, one - 1, MEANS[:1].repeat(3, 1))


def test_geometric_complexity_of_a_linear_map_is_its_squared_norm() -> None:
    """||A||_F^2 everywhere; of x -> x^2 / 2 it is the mean squared length of x."""
    layer = nn.Linear(5, 3)
    inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    squares = float(layer.weight.detach().square().sum())
    assert geometric_complexity(layer, inputs) == pytest.approx(squares, rel=1e-5)
    with torch.no_grad():
        found = geometric_complexity(lambda x: x.square() / 2, inputs)
    assert found == pytest.approx(float(inputs.square().sum(dim=1).mean()), rel=1e-5)
    images = inputs[:, :4].reshape(7, 1, 2, 2)
    assert geometric_complexity(lambda x: 3 * x.flatten(1), images) == pytest.approx(9 * 4, rel=1e-5)


def test_geometric_complexity_needs_a_function_of_inputs() -> None:
    with pytest.raises(PluginError, match="needs an input, got none"):
        geometric_complexity(nn.Linear(2, 2), torch.zeros(0, 2))
    for function in (lambda x: x.detach(), lambda x: x.sum(dim=1), lambda x: x[:1]):
        with pytest.raises(PluginError, match=r"needs features \(n, P\) that depend on 3 inputs"):
            geometric_complexity(function, torch.zeros(3, 2))


def test_metrics_beyond_classification_are_one_function_each_with_a_source() -> None:
    assert not set(METRICS) & set(BEYOND)
    for each in BEYOND.values():
        assert re.search(r"\((\w[^()]* )?20\d\d|\d{4}[,;)]", each.function.__doc__ or ""), f"{each.name} has no source"
    with pytest.raises(ValueError, match="collapse metric 'nrc1' is taken by nrc1"):
        metric("other", of="features", name="nrc1")(len)
