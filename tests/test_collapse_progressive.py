"""Collapse through the depth: directions within classes against all pairs, and the fit over stages by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nci_plugin.checks import PluginError
from nci_plugin.collapse import Undefined, progress, within_cosine
from nci_plugin.features.split import FeatureSplit


def split_of(features: torch.Tensor, labels: torch.Tensor) -> FeatureSplit:
    return FeatureSplit.of(features, torch.zeros(len(features), 3), labels)


def test_the_mean_cosine_within_classes_is_that_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=generator, dtype=torch.float64) + 0.5
    labels = torch.arange(40) % 3
    by_class = []
    for k in range(3):
        unit = torch.nn.functional.normalize(features[labels == k])
        cosines = unit @ unit.T
        by_class.append(float(cosines[~torch.eye(len(unit), dtype=torch.bool)].mean()))
    assert within_cosine(split_of(features, labels), 3) == pytest.approx(np.mean(by_class), abs=1e-12)


def test_directions_collapse_while_lengths_do_not() -> None:
    frame = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 1, 2])]
    features = frame * torch.tensor([1.0, 9.0, 0.1, 4.0, 2.0])[:, None]
    assert within_cosine(split_of(features, torch.tensor([0, 0, 1, 1, 2])), 3) == pytest.approx(1, abs=1e-12)
    opposite = torch.tensor([[1.0, 0], [-2.0, 0], [0.0, 0.0]])  # the feature of length 0 has no direction
    assert within_cosine(split_of(opposite, torch.zeros(3)), 3) == pytest.approx(-1)


def test_without_pairs_it_is_undefined() -> None:
    with pytest.raises(Undefined, match="two features that are not 0"):
        within_cosine(split_of(torch.eye(3), torch.arange(3)), 3)
    with pytest.raises(Undefined, match="two features that are not 0"):
        within_cosine(FeatureSplit([]), 3)
    with pytest.raises(PluginError, match="row 1 holds NaN"):
        within_cosine(split_of(torch.tensor([[1.0], [float("nan")]]), torch.zeros(2)), 3)


def test_a_geometric_fall_has_its_factor_and_fits() -> None:
    found = progress([8.0, 4.0, 2.0, 1.0])
    assert (found.stages, found.monotonicity) == (4, 1.0)
    assert found.factor == pytest.approx(0.5)
    assert found.determination == pytest.approx(1)
    rising = progress([1.0, 0.5, 1.0, 0.5])
    assert rising.monotonicity == pytest.approx(2 / 3)
    x, y = np.arange(4), np.log([1.0, 0.5, 1.0, 0.5])
    assert rising.factor == pytest.approx(np.exp(np.polyfit(x, y, 1)[0]))
    assert rising.determination == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert "falls in 2 of 3 steps (monotonicity 0.667)" in str(rising)
    assert progress([2.0, 2.0, 2.0]).determination is None


@pytest.mark.parametrize("values", [[1.0, 0.5], [1.0, None, 0.5], [1.0, 0.0, 0.5]])
def test_what_no_line_can_be_fitted_to_is_refused(values: list[float | None]) -> None:
    with pytest.raises(Undefined, match="needs three of them with a value above 0"):
        progress(values)
