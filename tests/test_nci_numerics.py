"""NCI's short formula against the textbook one in float64, where float32 cancels, overflows and underflows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nci_plugin.checks import PluginError
from nci_plugin.detectors.nci import NCI, NCIL2, FeatureNorm, PScore, feature_norm
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
TOLERANCE = 1e-5
LARGEST = torch.finfo(torch.float32).max


class Case:
    """Training statistics, a head and test features, all exact in float32."""

    def __init__(
        self, num_rows=120, width=24, num_classes=4, offset=0.0, scale=1.0, weight=1.0, bias=1.0, relu=False, seed=0
    ):
        generator = np.random.default_rng(seed)
        centres = generator.normal(size=(num_classes, width))
        labels = np.arange(num_rows) % num_classes

        def rows(sign):
            values = offset + sign * centres[labels] + generator.normal(size=(num_rows, width))
            return torch.from_numpy((scale * (np.maximum(values, 0) if relu else values)).astype(np.float32))

        self.train, self.test = rows(1), torch.cat([rows(1), rows(-1)])
        self.statistics = ClassStatistics(num_classes, width).update(self.train, torch.from_numpy(labels))
        self.head = LinearHead(
            torch.from_numpy((weight * generator.normal(size=(num_classes, width))).astype(np.float32)),
            torch.from_numpy((bias * generator.normal(size=num_classes)).astype(np.float32)),
        )

    def score(self, detector, features):
        return detector.fit(self.statistics, self.head).score(features, self.head.logits(features.float()).to(features))


def textbook(case, features, logits=None, alpha=0.0, order=1):
    """pScore + alpha ||h|| in float64, from the centred feature; the class is the network's, bias included."""
    logits = case.head.logits(features) if logits is None else logits
    predicted = logits.argmax(dim=1)
    centred = features.double() - case.statistics.global_mean
    length = torch.linalg.vector_norm(centred, dim=1)
    product = (case.head.weight.double()[predicted] * centred).sum(dim=1)
    return torch.where(length > 0, product / length, 0.0) + alpha * torch.linalg.vector_norm(
        features.double(), order, dim=1
    )


def assert_near(got, expected):
    error = (got.double() - expected).abs() / expected.abs().clamp(min=1)
    assert torch.isfinite(got).all()
    assert error.max() <= TOLERANCE, f"off by {error.max():.2e} of max(1, |score|)"


def assert_equals_textbook(case, alpha=0.01):
    assert torch.isfinite(case.head.logits(case.test)).all(), "the case itself must be usable"
    assert_near(case.score(PScore(), case.test), textbook(case, case.test))
    assert_near(case.score(NCI(alpha), case.test), textbook(case, case.test, alpha=alpha))
    assert_near(case.score(NCIL2(alpha), case.test), textbook(case, case.test, alpha=alpha, order=2))


# -------------------------------------------------------------------- scales


OFFSETS = [(0.0, True), (1.0, True), (1e4, True), (0.0, False), (1.0, False), (1e4, False), (-1e4, False)]


@pytest.mark.parametrize("weight", [1e-3, 0.1, 1.0, 100.0, 1e4])
@pytest.mark.parametrize(("offset", "relu"), OFFSETS)
def test_offset_of_the_mean_and_size_of_the_weights(offset, relu, weight):
    assert_equals_textbook(Case(offset=offset, weight=weight, relu=relu))


@pytest.mark.parametrize("bias", [0.0, 1.0, 100.0, 1e4, 1e6, -1e6])
def test_size_of_the_bias(bias):
    assert_equals_textbook(Case(bias=bias))


@pytest.mark.parametrize("bias", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_scale_of_the_features(scale, bias):
    assert_equals_textbook(Case(scale=scale, bias=bias), alpha=0.0)


@PROPERTY
@given(
    offset=st.sampled_from([0.0, 0.3, 10.0, 1e3, 1e4]),
    scale=st.floats(-4, 4).map(lambda exponent: 10.0**exponent),
    weight=st.floats(-4, 4).map(lambda exponent: 10.0**exponent),
    bias=st.floats(-4, 6).map(lambda exponent: 10.0**exponent),
    width=st.integers(1, 40),
    num_classes=st.integers(1, 6),
    relu=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_mix_of_scales(offset, scale, weight, bias, width, num_classes, relu, seed):
    assert_equals_textbook(Case(30, width, num_classes, offset, scale, weight, bias, relu, seed), alpha=0.001 / scale)


def test_large_weights_almost_orthogonal_to_the_centred_feature():
    """The score is near 0 while every product in the logit is near 1e4."""
    case = Case(weight=1e4, bias=0.0)
    direction = case.test.double() - case.statistics.global_mean
    row = case.head.weight[0].double()
    direction -= (direction @ row / (row @ row))[:, None] * row
    features = (case.statistics.global_mean + direction).float()
    logits = case.head.logits(features)
    logits[:, 1:] -= 1e9  # class 0 is predicted
    got = PScore().fit(case.statistics, case.head).score(features, logits)
    assert textbook(case, features, logits).abs().max() < 1
    assert_near(got, textbook(case, features, logits))


# -------------------------------------------------------------------- close to the mean


def at_the_mean(mean=(1.0, 2.0, -4.0), bias=(0.5, 100.0)):
    """Statistics whose mu_G is exact in float32."""
    statistics = ClassStatistics(2, 3).update(
        torch.tensor([mean, mean]) + torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    )
    assert statistics.global_mean.tolist() == list(mean)
    return statistics, LinearHead(torch.tensor([[3.0, 1.0, 2.0], [-2.0, 5.0, 1.0]]), torch.tensor(bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_itself_scores_its_norm_alone(dtype):
    statistics, head = at_the_mean()
    features = torch.tensor([[1.0, 2.0, -4.0]] * 2, dtype=dtype)
    logits = head.logits(features.float()).to(dtype)
    assert PScore().fit(statistics, head).score(features, logits).tolist() == [0.0, 0.0]
    assert NCI(0.5).fit(statistics, head).score(features, logits).tolist() == pytest.approx([3.5, 3.5])


@pytest.mark.parametrize("distance", [1e-7, 1e-9, 1e-12])
def test_within_1e_7_of_the_mean(distance):
    """Features near 1 differ from the mean by a few units in the last place, or, around a mean of 0, by less."""
    generator = np.random.default_rng(0)
    for base in (0.0, 1.0, 1e4):
        mean = torch.full((6,), base)
        train = mean + torch.tensor([[1.0], [-1.0]])
        statistics = ClassStatistics(2, 6).update(train, torch.tensor([0, 1]))
        head = LinearHead(torch.from_numpy(generator.normal(size=(2, 6)).astype(np.float32)), torch.tensor([1.0, -1.0]))
        steps = torch.from_numpy(generator.normal(size=(40, 6))) * distance
        for features in ((mean.double() + steps).float(), mean.double() + steps):
            logits = head.logits(features.float()).to(features)
            got = PScore().fit(statistics, head).score(features, logits)
            centred = features.double() - base
            length = centred.norm(dim=1)
            product = (head.weight.double()[logits.argmax(1)] * centred).sum(1)
            assert_near(got, torch.where(length > 0, product / length, 0.0))


def test_nearest_float32_neighbours_of_the_mean():
    statistics, head = at_the_mean()
    mean = np.array([1.0, 2.0, -4.0], np.float32)
    for axis in range(3):
        for towards in (np.float32(-100), np.float32(100)):
            row = mean.copy()
            row[axis] = np.nextafter(row[axis], towards)
            features = torch.from_numpy(row)[None]
            got = PScore().fit(statistics, head).score(features, head.logits(features))
            assert got.item() == pytest.approx(np.sign(towards) * head.weight[1, axis].item(), abs=1e-5)


# -------------------------------------------------------------------- ends of the range


@pytest.mark.parametrize("alpha", [1e-4, 0.1])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1e-20, 1e-10, 1e10, 1e18, 1e20, 1e25, 1e30, 1e36, 3e37])
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_features_of_any_size_give_finite_scores(scale, bias, alpha):
    case = Case(width=8, scale=scale, weight=0.01, bias=bias)
    assert torch.isfinite(case.head.logits(case.test)).all()
    for detector in (NCI(alpha), NCIL2(alpha), PScore()):
        assert torch.isfinite(case.score(detector, case.test)).all()


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1e-20, 1e-10, 1e10, 1e18, 1e20, 1e25, 1e30, 1e36])
def test_proximity_of_features_of_any_size(scale, bias):
    """Squared distances leave the range of float32 below 1e-19 and above 1e19; the score itself is near 1."""
    case = Case(width=8, scale=scale, weight=0.2, bias=bias)
    assert torch.isfinite(case.head.logits(case.test)).all()
    assert_near(case.score(PScore(), case.test), textbook(case, case.test))


@pytest.mark.parametrize("scale", [1e-22, 1e-20, 1e20])
def test_test_features_of_another_size_than_the_training_features(scale):
    case = Case(width=8, offset=0.0, weight=0.2, bias=0.0, scale=scale * 1e-6)
    case.test = (case.test * 1e6).contiguous()
    assert_near(case.score(PScore(), case.test), textbook(case, case.test))


def test_features_of_1e38_with_a_tiny_head():
    case = Case(width=8, weight=1e-3)
    case.test = torch.full((3, 8), 1e38) * torch.tensor([[1.0], [-1.0], [3.0]])
    assert torch.isfinite(case.head.logits(case.test)).all()
    for alpha in (0.0, 1e-4, 1.0, 1e3):
        for detector in (NCI(alpha), NCIL2(alpha)):
            assert torch.isfinite(case.score(detector, case.test)).all()


@pytest.mark.parametrize(("detector", "order"), [(NCI(1e-4), 1), (NCIL2(1e-4), 2)])
def test_a_norm_beyond_the_range_still_counts_where_alpha_times_it_is_not(detector, order):
    """||h||_1 = 1e40 has no float32, alpha ||h||_1 = 1e36 has one."""
    case = Case(width=100, weight=1e-6)
    case.test = torch.tensor([[1e38], [2e38], [3e38]]).expand(3, 100).contiguous()
    got = case.score(detector, case.test).double()
    torch.testing.assert_close(got, textbook(case, case.test, alpha=1e-4, order=order), rtol=1e-5, atol=0)
    assert (got.diff() > 0).all()


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("linf", float("inf"))])
def test_norms_near_and_beyond_the_range(norm, order):
    features = torch.tensor([[3e38, -3e38, 1e38], [1e30, 2e30, -3e30], [1e20, 1e20, 0.0], [1.0, -2.0, 3.0], [0, 0, 0]])
    expected = torch.linalg.vector_norm(features.double(), order, dim=1).clamp(max=LARGEST).float()
    torch.testing.assert_close(feature_norm(features, norm), expected)
    torch.testing.assert_close(feature_norm(features.double(), norm), features.double().norm(order, dim=1))
    detector = FeatureNorm(norm).fit(None, LinearHead(torch.zeros(2, 3), torch.zeros(2)))
    torch.testing.assert_close(detector.score(features, torch.zeros(5, 2)), expected)


def test_an_unknown_norm_is_refused():
    with pytest.raises(PluginError, match="norm: must be one of l1, l2, linf"):
        FeatureNorm().set_hyperparameters(norm="l3")


def test_a_feature_that_is_nan_scores_nan():
    """Any number would be ranked as if it meant something; whoever ranks scores refuses NaN."""
    case = Case()
    features = case.test[:3].clone()
    features[1, 2] = float("nan")
    for detector in (PScore(), NCI(0.01), NCIL2(0.01), FeatureNorm("l1")):
        assert case.score(detector, features).isnan().tolist() == [False, True, False]


# -------------------------------------------------------------------- forms of the input


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float64_inputs(offset):
    case = Case(offset=offset)
    logits = case.test.double() @ case.head.weight.double().T + case.head.bias.double()
    got = NCI(0.01).fit(case.statistics, case.head).score(case.test.double(), logits)
    assert got.dtype == torch.float64
    assert_near(got, textbook(case, case.test, logits, alpha=0.01))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_inputs_that_are_not_contiguous(offset):
    case = Case(offset=offset)
    logits = case.head.logits(case.test)
    wide = torch.stack([case.test, torch.full_like(case.test, 7.0)], dim=2)[:, :, 0]
    for features, z in ((wide, logits.T.contiguous().T), (case.test.T.contiguous().T, logits)):
        assert not (features.is_contiguous() and z.is_contiguous())
        for detector in (NCI(0.01), NCIL2(0.01), FeatureNorm("l1"), FeatureNorm("l2"), FeatureNorm("linf")):
            detector.fit(case.statistics, case.head)
            torch.testing.assert_close(detector.score(features, z), detector.score(case.test, logits))


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5000])
def test_any_number_of_rows(num_rows):
    case = Case(num_rows=4, width=300)
    case.test = torch.randn(num_rows, 300, generator=torch.Generator().manual_seed(0))
    got = case.score(NCI(0.01), case.test)
    assert got.shape == (num_rows,)
    if num_rows:
        assert_near(got, textbook(case, case.test, alpha=0.01))


def test_features_and_logits_are_left_alone():
    """Also those rows that are computed again in float64."""
    case = Case(offset=1e4)
    features, logits = case.test.clone(), case.head.logits(case.test)
    kept = logits.clone()
    NCI(0.01).fit(case.statistics, case.head).score(features, logits)
    assert torch.equal(features, case.test)
    assert torch.equal(logits, kept)


def test_no_row_depends_on_the_others():
    case = Case(offset=30.0)
    case.test[::3] = case.statistics.global_mean.float()
    detector = NCI(0.01).fit(case.statistics, case.head)
    whole = detector.score(case.test, case.head.logits(case.test))
    alone = torch.cat([detector.score(row[None], case.head.logits(row[None])) for row in case.test])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------- which class


def test_the_predicted_class_includes_the_bias_and_the_score_does_not():
    statistics, _ = at_the_mean(mean=(0.0, 0.0, 0.0))
    features = torch.tensor([[2.0, 0.0, 0.0]])
    for bias, expected in (([0.0, 0.0], 3.0), ([0.0, 50.0], -2.0), ([7.0, 0.0], 3.0)):
        head = LinearHead(torch.tensor([[3.0, 1.0, 2.0], [-2.0, 5.0, 1.0]]), torch.tensor(bias))
        assert PScore().fit(statistics, head).score(features, head.logits(features)).item() == pytest.approx(expected)


def test_the_predicted_class_is_that_of_the_feature_and_not_of_the_centred_one():
    statistics, head = at_the_mean(mean=(10.0, 0.0, 0.0), bias=(0.0, 0.0))
    features = torch.tensor([[9.0, 0.0, 0.0]])  # class 0 by h, class 1 by h - mu_G
    assert PScore().fit(statistics, head).score(features, head.logits(features)).item() == pytest.approx(-3.0)


def test_equal_logits_take_the_first_class():
    statistics, _ = at_the_mean(mean=(0.0, 0.0, 0.0))
    head = LinearHead(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.zeros(2))
    features = torch.tensor([[3.0, 3.0, 0.0]])
    got = PScore().fit(statistics, head).score(features, head.logits(features))
    assert got.item() == pytest.approx(0.5**0.5)


def test_mu_g_weighs_classes_by_their_samples():
    features = torch.tensor([[0.0, 0.0]] * 3 + [[4.0, 0.0]])
    statistics = ClassStatistics(2, 2).update(features, torch.tensor([0, 0, 0, 1]))  # mu_G = (1, 0), not (2, 0)
    head = LinearHead(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.zeros(2))
    test = torch.tensor([[1.0, 2.0]])
    assert PScore().fit(statistics, head).score(test, head.logits(test)).item() == pytest.approx(1.0)


def test_the_norm_filter_takes_the_feature_as_it_is():
    statistics, head = at_the_mean()
    features = torch.tensor([[2.0, -3.0, 6.0]])
    logits = head.logits(features)
    proximity = PScore().fit(statistics, head).score(features, logits).item()
    for alpha in (1e-4, 0.1, 10.0):
        assert NCI(alpha).fit(statistics, head).score(features, logits).item() == pytest.approx(proximity + 11 * alpha)
        assert NCIL2(alpha).fit(statistics, head).score(features, logits).item() == pytest.approx(proximity + 7 * alpha)
