"""Every collapse metric at a minimum that is known: free features, weights and bias (unconstrained features model)."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nci_plugin.collapse import METRICS, held_out_cdnv, measure, ortho_dev, within_cosine
from nci_plugin.features.split import FeatureSplit

FOLDER = Path(__file__).resolve().parent.parent / "scripts" / "study"
CLASSES, WIDTH = 4, 7

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("unconstrained")


def split_of(minimum: Any) -> FeatureSplit:
    logits = minimum.features @ minimum.head.weight.T + minimum.head.bias
    return FeatureSplit.of(minimum.features, logits, minimum.labels)


@pytest.mark.parametrize("loss", ["cross-entropy", "label smoothing", "focal", "MSE"])
def test_with_bias_every_metric_has_its_value_at_collapse(study: Any, loss: str) -> None:
    """A simplex ETF, self-dual, for every loss: also for metrics that are registered later."""
    minimum = study.solve([6] * CLASSES, WIDTH, loss)
    assert minimum.gradient < 1e-7
    split = split_of(minimum)
    values = dict(measure(minimum.statistics, minimum.head, training=split).values)
    values["held_out_cdnv"] = held_out_cdnv(split, CLASSES)
    values["within_cosine"] = within_cosine(split, CLASSES)
    checked = [m for m in METRICS.values() if m.ideal is not None and not m.frame and m.name in values]
    left_out = {m.name for m in METRICS.values() if m.ideal is not None} - {m.name for m in checked}
    # Of an OOD set, and of the other frame: below.
    assert left_out == {"ortho_dev", "gof_mean_abs_cosine_uncentred", "gof_mean_abs_cosine_weights"}
    for each in checked:
        expected = each.at_collapse(CLASSES)
        assert np.allclose(values[each.name], expected, atol=1e-4 * max(1, abs(expected or 0))), each.name
    for name in ("nc2_centred_norms", "nc2_weight_norms", "class_mean_norms", "class_norms_l2"):
        assert np.allclose(values[name], values[name][0], rtol=1e-5), name
    assert values["uncentred_cosine_mean"] == pytest.approx(1, abs=1e-6)
    assert values["imbalance_ratio"] == 1
    assert values["mean_norm_l2"] == pytest.approx(values["class_mean_norms"][0], rel=1e-5)
    l1 = float(minimum.features.abs().sum(dim=1).mean())
    assert values["mean_norm_l1"] == pytest.approx(l1)


def test_the_ood_mean_beside_the_span_is_orthogonal(study: Any) -> None:
    minimum = study.solve([6] * CLASSES, WIDTH)
    beside = torch.linalg.svd(minimum.statistics.means)[2][-1:]
    split = FeatureSplit.of(beside, beside @ minimum.head.weight.T, torch.zeros(1))
    assert ortho_dev(split, minimum.statistics) == pytest.approx(0, abs=1e-9)


def test_mse_without_bias_is_an_orthogonal_frame(study: Any) -> None:
    """NC2B against NC2A: cosines of raw means and weights are 0, of centred means still -1/(K-1); rank K, not K - 1."""
    minimum = study.solve([6] * CLASSES, WIDTH, "MSE", bias=False)
    values = minimum.metrics.values
    assert values["gof_mean_abs_cosine_uncentred"] == pytest.approx(0, abs=1e-6)
    assert values["gof_mean_abs_cosine_weights"] == pytest.approx(0, abs=1e-6)
    assert values["nc2_equiangular_weights"] == pytest.approx(1 / (CLASSES - 1), abs=1e-6)
    assert values["effective_rank_weights"] == pytest.approx(CLASSES, abs=1e-6)
    assert values["nc2_etf_error"] == pytest.approx(0, abs=1e-6)
    assert values["uncentred_cosine_mean"] == pytest.approx(1, abs=1e-6)
    # Cosine of an orthonormal frame and its centred rows, from which self-duality follows.
    cosine = math.sqrt(1 - 1 / CLASSES)
    assert values["nc3_cosine_mean"] == pytest.approx(cosine, abs=1e-6)
    assert values["nc3_self_duality"] == pytest.approx(2 - 2 * cosine, abs=1e-6)


def test_unequal_classes_give_a_general_orthogonal_frame(study: Any) -> None:
    """Lengths by hand: ||w_k||^2 ~ s_k and ||mu_k||^2 ~ s_k / n_k with s_k = sqrt(n_k) - N sqrt(lambda_w lambda_h)."""
    sizes, decay = np.array([24, 12, 6, 3]), 0.1
    minimum = study.solve(sizes.tolist(), WIDTH, "MSE", bias=False, decay=decay)
    count = sizes.sum()
    singular = np.sqrt(sizes) - count * decay / np.sqrt(count)
    assert (singular > 0).all()
    values = minimum.metrics.values
    scale = count**-0.25  # (lambda_h / lambda_w)^(1/4)
    assert np.allclose(values["nc2_weight_norms"], scale * np.sqrt(singular), rtol=1e-5)
    assert np.allclose(values["class_mean_norms"], np.sqrt(singular / sizes) / scale, rtol=1e-5)
    assert values["gof_mean_abs_cosine_uncentred"] == pytest.approx(0, abs=1e-6)
    slope = np.polyfit(np.log(sizes), np.log(singular) / 2, 1)[0]
    assert values["gof_slope_weights"] == pytest.approx(slope, abs=1e-5)
    assert values["gof_slope_means"] == pytest.approx(slope - 0.5, abs=1e-5)


def test_mse_without_bias_forgets_a_class_below_the_threshold(study: Any) -> None:
    """n_k <= N^2 lambda_w lambda_h = N decay^2: 2 samples of 38 at 0.25 are below (2.375), 4 of 40 (2.5) are not."""
    weights = [study.solve([12, 12, 12, few], WIDTH, "MSE", bias=False, decay=0.25).head.weight for few in (2, 4)]
    assert float(weights[0][3].norm()) < 1e-4
    assert float(weights[1][3].norm()) > 0.1


def test_minority_classes_merge_beyond_the_threshold_and_not_before(study: Any) -> None:
    """Cross-entropy: below the ratio 13.8 minority classes stay apart, beyond they are one; so does the block."""
    assert study.threshold(3, 3, study.SWEPT_DECAY) == pytest.approx((1 / 0.15**2 - 3) / 3)
    cosines = {ratio: values for ratio, (*values,) in study.sweep((2, 8, 13, 14, 20), seeds=2)}
    means = [float(np.mean(values)) for values in cosines.values()]
    assert means == sorted(means)
    assert max(cosines[13]) < 0.7
    assert min(cosines[14]) > 1 - 1e-6
    metrics = study.solve([40] * 3 + [2] * 3, WIDTH, decay=study.SWEPT_DECAY).metrics
    assert metrics.minority_cosine_weights == pytest.approx(1, abs=1e-6)
    assert metrics.minority_cosine_means == pytest.approx(1, abs=1e-6)
    assert metrics.smallest_angle_weights < 0.1
    assert metrics.minority_classes == (3, 4, 5)
    assert metrics.effective_rank_weights < 3 + 1e-6  # three majority directions at most, of them and the one minority


def test_below_the_threshold_the_gram_of_weights_has_blocks(study: Any) -> None:
    """Two kinds of classes: one cosine within the majority, one within the minority, one across (Hong & Ling 2023)."""
    weight = study.solve([16] * 3 + [2] * 3, WIDTH, decay=study.SWEPT_DECAY).head.weight
    gram = weight @ weight.T
    off = ~torch.eye(3, dtype=torch.bool)
    for block in (gram[:3, :3][off], gram[3:, 3:][off], gram[:3, 3:].flatten()):
        assert torch.allclose(block, block.mean(), atol=1e-6)
    assert float(gram[0, 0]) > 2 * float(gram[3, 3])


@pytest.mark.slow
def test_the_study_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "unconstrained.py"), "--figure", str(tmp_path / "sweep.png")]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "threshold: R = 13.81" in text
    assert "| MSE | no |" in text
    assert (tmp_path / "sweep.png").stat().st_size > 5000
