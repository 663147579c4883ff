"""Collapse of regression (NRC) and ordinal regression (ONC): the theory's minimum, by hand, and on real data."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nci_plugin import ClassStatistics
from nci_plugin.checks import PluginError
from nci_plugin.collapse import Undefined
from nci_plugin.collapse.ordinal import onc1, onc2, onc3
from nci_plugin.collapse.regression import nrc1, nrc2, nrc3

FOLDER = Path(__file__).resolve().parent.parent / "scripts" / "study"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("targets")


@pytest.fixture
def values() -> torch.Tensor:
    """Three correlated targets of 40 samples, and P = 6 features to be found for them."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.5, 0.5], [0.0, 0.5, 1.2]], dtype=torch.float64)
    return torch.randn(40, 3, generator=generator, dtype=torch.float64) @ mixing + 5


# ---------------------------------------------------------------- regression


def test_free_features_of_regression_collapse(study: Any, values: torch.Tensor) -> None:
    """NRC1 to NRC3 are 0, and W W^T has the closed form of the theory, not just its direction."""
    decay = (0.05, 0.2)
    features, weight = study.free_minimum(study.squared, values, 3, 6, decay, True)
    gamma = decay[0] * decay[1]
    covariance = np.cov(values.numpy().T, bias=True)
    variances, vectors = np.linalg.eigh(covariance)
    assert gamma < variances[0]
    expected = np.sqrt(decay[1] / decay[0]) * vectors @ np.diag(np.sqrt(variances) - np.sqrt(gamma)) @ vectors.T
    assert np.allclose(weight @ weight.T, expected, atol=1e-6)
    assert nrc1(features, 3) == pytest.approx(0, abs=1e-10)
    assert nrc2(features, weight) == pytest.approx(0, abs=1e-10)
    assert nrc3(values, weight, gamma) == pytest.approx(0, abs=1e-10)
    assert nrc3(values, weight) == pytest.approx(0, abs=1e-8)
    assert nrc3(values, weight, gamma * 9) > 1e-5


def test_nrc_by_hand() -> None:
    """Features along three axes with lengths 3, 2, 1: one component holds the first axis alone."""
    features = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]]) + 7
    assert nrc1(features, 1) == pytest.approx(2 / 3)
    weight = torch.tensor([[0.0, 0, 5], [0, 0, 1]])
    assert nrc1(features.numpy(), 1) == nrc1(features, 1)
    assert nrc2(features.numpy(), weight.numpy()) == nrc2(features, weight)
    assert nrc1(features, 2) == pytest.approx(1 / 3)
    assert nrc2(features, torch.tensor([[0.0, 0, 5]])) == pytest.approx(2 / 3)
    assert nrc2(features, torch.tensor([[0.0, 0, 5], [0, 0, 1], [1, 0, 0]])) == pytest.approx(1 / 3)
    # Uncorrelated targets of equal variance: Sigma^(1/2) is c I, so orthogonal rows are 0 and equal rows are not.
    targets = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert nrc3(targets, 3 * torch.eye(2)) == pytest.approx(0, abs=1e-12)
    assert nrc3(targets.numpy(), np.ones((2, 2))) == nrc3(targets, torch.ones(2, 2))
    # A / ||A|| = [[1, 1], [1, 1]] / 2 against I / sqrt(2): 2 - 2 <A, B> = 2 - sqrt(2)
    assert nrc3(targets, torch.ones(2, 2)) == pytest.approx(2 - 2**0.5)


def test_what_nrc_cannot_say_is_refused(values: torch.Tensor) -> None:
    weight = torch.eye(3, 6, dtype=torch.float64)
    with pytest.raises(PluginError, match=r"NRC3: needs two targets .* got 1 targets and a weight of shape \(1, 6\)"):
        nrc3(values[:, :1], weight[:1])
    with pytest.raises(PluginError, match=r"got 3 targets and a weight of shape \(2, 6\)"):
        nrc3(values, weight[:2])
    with pytest.raises(PluginError, match=r"a weight of shape \(3,\)"):
        nrc3(values, torch.ones(3))
    with pytest.raises(PluginError, match="needs two rows of a matrix"):
        nrc2(torch.ones(3), weight)
    with pytest.raises(PluginError, match="needs 1 to P - 1 targets, got 3 with P = 3"):
        nrc1(values, 3)
    with pytest.raises(PluginError, match="gamma must be from 0 to below"):
        nrc3(values, weight, 1e6)
    with pytest.raises(PluginError, match="row 2 holds NaN"):
        nrc1(values.index_fill(0, torch.tensor([2]), torch.nan), 1)
    with pytest.raises(PluginError, match=r"expected features of shape \(n, 3\)"):
        nrc2(values, weight)
    with pytest.raises(PluginError, match="needs two rows"):
        nrc1(values[:1], 1)
    for undefined in (
        lambda: nrc1(torch.ones(5, 4), 1),
        lambda: nrc2(values, torch.zeros(3, 3)),
        lambda: nrc3(values, torch.zeros(3, 6)),
        lambda: nrc3(values[:, [0, 0]], weight[:2]),
    ):
        with pytest.raises(Undefined, match=r"all equal|is zero|linearly dependent"):
            undefined()


# ---------------------------------------------------------------- grades


def test_the_likelihood_is_that_of_the_differences(study: Any) -> None:
    cuts = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    z, grades = torch.tensor([[0.3], [-2.0], [1.0], [4.0]], dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    shares = torch.sigmoid(torch.cat([cuts.new_tensor([-1e9]), cuts, cuts.new_tensor([1e9])]) - z).diff(dim=1)
    assert float(study.cumulative(cuts)(z, grades)) == pytest.approx(float(-shares[range(4), grades].log().mean()))


def test_free_features_of_grades_collapse_onto_a_line_in_order(study: Any) -> None:
    """Latents tend to the middles of their intervals as the decay falls (Ma et al. 2025)."""
    grades, cuts = torch.arange(5).repeat_interleave(4), torch.tensor([-4.0, -1.0, 1.0, 5.0], dtype=torch.float64)
    centring = []
    for decay in (1e-2, 1e-3, 1e-4):
        features, weight = study.free_minimum(study.cumulative(cuts), grades, 1, 4, (decay, decay), False)
        statistics = ClassStatistics(5, 4).update(features, grades)
        assert onc1(statistics) < 1e-6
        assert onc2(statistics, weight[0]) < 1e-6
        order = onc3(statistics, weight[0], cuts)
        assert order.in_order == 1
        centring.append(order.centring)
    assert centring == sorted(centring, reverse=True)
    assert centring[-1] < 0.02


def test_onc_by_hand() -> None:
    statistics = ClassStatistics(4, 2).update(torch.tensor([[0.0, 1], [1, 0], [3, 0], [2, 1]]), torch.arange(4))
    along = torch.tensor([2.0, 0])
    assert onc2(statistics, along) == pytest.approx(1 / 6)  # squares 5 along and 1 across the line
    assert onc2(statistics, torch.tensor([0.0, 1])) == pytest.approx(5 / 6)
    found = onc3(statistics, along, torch.tensor([1.0, 5, 7]))  # latents 0, 2, 6, 4; middles 3 and 6, halves 2 and 1
    assert found.in_order == pytest.approx(2 / 3)
    assert found.centring == pytest.approx((0.5 + 0) / 2)


def test_what_onc_cannot_say_is_refused() -> None:
    statistics = ClassStatistics(3, 2).update(torch.randn(6, 2), torch.arange(6) % 3)
    with pytest.raises(PluginError, match="2 ascending thresholds of 3 grades"):
        onc3(statistics, torch.ones(2), torch.tensor([1.0, 1.0]))
    with pytest.raises(PluginError, match="2 ascending thresholds of 3 grades"):
        onc3(statistics, torch.ones(2), torch.tensor([1.0]))
    with pytest.raises(PluginError, match=r"expected features of shape \(n, 2\)"):
        onc2(statistics, torch.ones(3))
    with pytest.raises(Undefined, match="needs a weight that is not zero"):
        onc2(statistics, torch.zeros(2))
    missing = ClassStatistics(4, 2).update(torch.randn(6, 2), torch.arange(6) % 3)
    with pytest.raises(PluginError, match="samples of each, got 4 with samples of 3"):
        onc3(missing, torch.ones(2), torch.arange(3.0))


# ---------------------------------------------------------------- real data


@pytest.mark.slow
def test_on_real_data_weight_decay_collapses_grades(study: Any) -> None:
    runs = [study.ordinal(seed, steps=400) for seed in range(2)]
    for before, after in runs:
        assert after["ONC1"] < before["ONC1"] / 5
        assert after["ONC2"] < before["ONC2"]
        assert after["ONC3 in order"] == 1


@pytest.mark.slow
def test_on_real_data_weight_decay_collapses_regression(study: Any) -> None:
    for seed in range(2):
        before, after = study.regression(seed)
        for name in ("NRC1", "NRC2", "NRC3"):
            assert after[name] < before[name] / 3, name
