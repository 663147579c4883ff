"""Collapse metrics against golden values, constructed geometries, and what theory says of their invariances."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry import etf, head_of, imbalanced, rotation
from hypothesis import given, settings
from hypothesis import strategies as st

from nci_plugin.checks import PluginError
from nci_plugin.collapse import METRICS, Undefined, held_out_cdnv, measure, nearest_centre, ortho_dev
from nci_plugin.collapse.geometry import between_directions, centre_distances, centred_means, chords
from nci_plugin.collapse.imbalance import smallest_angles
from nci_plugin.collapse.means import log_mean, log_variance, nearest_etf
from nci_plugin.collapse.variability import nc1_cdnv, nc1_pinv, nc1_quotient
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead
from nci_plugin.report import diagnosis_tables

NEEDS_ETF = [metric.name for metric in METRICS.values() if metric.simplex]
ZERO_AT_ETF = [name for name in NEEDS_ETF if METRICS[name].ideal == 0 and name != "gnc2_log_variance"]
GOLDEN = Path(__file__).parent / "golden"
EXACT = {"rel": 1e-10, "abs": 1e-12}
UNCENTRED = {
    *("uncentred_cosines", "uncentred_cosine_mean", "mean_norm_l2", "mean_norm_l1", "class_norms_l2"),
    *("class_mean_norms", "gof_mean_abs_cosine_uncentred", "gof_slope_means"),
}
"""What moves with the origin of the features."""
LENGTHS = {
    "mean_class_distance": 1,
    "nc2_centred_norms": 1,
    "class_variances": 2,
    "mean_norm_l2": 1,
    "class_norms_l2": 1,
    "class_mean_norms": 1,
}
"""What is not free of the features' scale, with the power that it follows."""


def statistics_of(features, labels, num_classes):
    return ClassStatistics(num_classes, features.shape[1]).update(features, labels)


def split_of(features, head, labels):
    return FeatureSplit.of(features, features @ head.weight.to(features).T + head.bias.to(features), labels)


def near(value, **tolerance):
    """What equals ``value``: nearly where that is a number or a tuple of them."""
    return pytest.approx(value, **(tolerance or EXACT)) if isinstance(value, (float, tuple)) else value


def assert_same(got, expected, skip=(), **tolerance):
    got, expected = got.to_dict(), expected.to_dict()
    for name in expected.keys() - set(skip):
        assert got[name] == near(expected[name], **tolerance), name


# -------------------------------------------------------------------- golden values


@pytest.fixture(scope="module")
def values():
    return json.loads((GOLDEN / "neural_collapse_digits.json").read_text())


@pytest.fixture(scope="module")
def digits(golden):
    features, labels = golden.tensor("features/train").double(), golden.tensor("labels/train").long()
    return statistics_of(features, labels, 6), split_of(features, golden.head, labels)


def test_equals_the_golden_values(golden, values, digits):
    statistics, train = digits
    metrics = measure(statistics, golden.head)
    got = {
        **metrics.to_dict(),
        "nc1_svd": metrics.nc1_pinv,
        "nc4_agreement_train": nearest_centre(train, statistics).agreement,
        **{
            f"nc5_orthogonality_{name}": ortho_dev(
                split_of(golden.tensor(f"features/{name}").double(), golden.head, golden.tensor(f"labels/{name}")),
                statistics,
            )
            for name in ("near", "far")
        },
    }
    for name, expected in {**values["public"], **values["formula"]}.items():
        assert got[name] == pytest.approx(expected, rel=1e-10), name
    cosines = values["public"]["nc3_cosines"]
    assert (metrics.nc3_cosine_mean, metrics.nc3_cosine_std) == near((np.mean(cosines), np.std(cosines, ddof=1)))
    unequal = {"gof_slope_means", "gof_slope_weights", "minority_cosine_means", "minority_cosine_weights"}
    reason = "collapse: largest / smallest class is 1.27; this is defined from 2 on"
    assert metrics.notes == dict.fromkeys(unequal, reason)
    assert metrics.minority_classes == ()
    assert (metrics.mean_convention, metrics.between_rank, metrics.classes) == ("classes", 5, tuple(range(6)))


def test_cosine_with_the_raw_mean_is_another_quantity(golden, digits):
    metrics = measure(digits[0], golden.head)
    assert metrics.nc3_cosine_mean - metrics.uncentred_cosine_mean > 0.05


def test_golden_features_in_float32_shards_and_batches(golden, values, digits):
    features, labels = golden.tensor("features/train"), golden.tensor("labels/train").long()
    order = torch.randperm(len(labels), generator=torch.manual_seed(0))
    shards = [ClassStatistics(6, 48) for _ in range(3)]
    for number, rows in enumerate(order.split(37)):
        shards[number % 3].update(features[rows], labels[rows])
    merged = shards[0].merge(shards[1].merge(shards[2]))
    assert_same(measure(merged, golden.head), measure(digits[0], golden.head))


# -------------------------------------------------------------------- exact collapse


@pytest.mark.parametrize(("num_classes", "width"), [(2, 1), (2, 5), (3, 2), (5, 4), (6, 5), (6, 20), (10, 9)])
def test_exact_collapse(num_classes, width):
    """Down to P = K - 1, the smallest space that holds the simplex."""
    vertices = etf(num_classes, width)
    offset = torch.linspace(1, 3, width, dtype=torch.float64)
    labels = torch.arange(num_classes).repeat(4)
    features, head = 3 * vertices[labels] + offset, LinearHead(2 * vertices, -2 * vertices @ offset)
    statistics = statistics_of(features, labels, num_classes)
    metrics = measure(statistics, head)
    zero = ["nc1_pinv", "nc1_quotient", "nc1_cdnv", "nc2_equinorm_means", "nc2_equinorm_weights", *ZERO_AT_ETF]
    for name in [*zero, "nc3_self_duality", "nc3_cosine_std"]:
        assert getattr(metrics, name) == pytest.approx(0, abs=1e-12), name
    assert metrics.nc3_cosines == pytest.approx([1] * num_classes, abs=1e-12)
    assert metrics.gnc2_log_mean == pytest.approx(-0.5 * math.log(2 * num_classes / (num_classes - 1)), **EXACT)
    if num_classes > 2:
        assert metrics.gnc2_log_variance == pytest.approx(0, abs=1e-12)
    assert metrics.smallest_angle_means == pytest.approx(math.degrees(math.acos(-1 / (num_classes - 1))), abs=1e-5)
    assert metrics.effective_rank_means == pytest.approx(num_classes - 1)
    assert metrics.nc2_mean_cosine == pytest.approx(-1 / (num_classes - 1), **EXACT)
    assert metrics.mean_class_distance == pytest.approx(3 * math.sqrt(2 * num_classes / (num_classes - 1)))
    assert metrics.between_rank == num_classes - 1
    assert metrics.etf_exists
    assert not metrics.notes.keys() & {*zero, "gnc2_log_mean"}
    found = nearest_centre(split_of(features, head, labels), statistics)
    assert (found.agreement, found.accuracy) == (1, 1)


def test_more_classes_than_a_simplex_has_room_for_say_so():
    """Four directions of a square in the plane: K = P + 2, uniform on the circle and no ETF."""
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    metrics = measure(statistics_of(square.repeat(2, 1), torch.arange(4).repeat(2), 4), head_of(square))
    assert not metrics.etf_exists
    assert {name for name in metrics.notes if "no simplex ETF" in metrics.notes[name]} == set(NEEDS_ETF)
    assert metrics.nc2_equiangular_means == pytest.approx((4 * (1 / 3) + 2 * (2 / 3)) / 6)
    distances = np.array([math.sqrt(2)] * 4 + [2] * 2)
    assert metrics.gnc2_log_mean == pytest.approx(-np.log(distances).mean())
    assert metrics.gnc2_log_variance == pytest.approx(np.log(distances).var(ddof=1))
    assert metrics.nc1_pinv == 0
    assert metrics.nc2_mean_cosine == pytest.approx(-1 / 3)  # the signed mean hides what equiangular shows
    assert metrics.mean_class_distance == pytest.approx(distances.mean())


def test_a_value_at_collapse_is_given_only_where_it_can_be_reached():
    """K - 1 features hold a simplex ETF of K classes, K features an orthogonal frame; fewer hold neither."""
    for name in NEEDS_ETF:
        assert METRICS[name].at_collapse(100, 99) == METRICS[name].at_collapse(100) is not None
        assert METRICS[name].at_collapse(100, 98) is None
    orthogonal = METRICS["gof_mean_abs_cosine_uncentred"]
    assert (orthogonal.at_collapse(100, 100), orthogonal.at_collapse(100, 99)) == (0, None)
    assert METRICS["nc1_quotient"].at_collapse(100, 1) == 0
    shown = [diagnosis_tables.at_collapse(METRICS[name], 100, 64) for name in ("effective_rank_means", "nc1_pinv")]
    assert shown == ["-", "0"]


def test_the_simplex_minimises_the_log_mean_and_has_no_variance():
    vertices, others = etf(6, 8), imbalanced([1] * 6, 8)[0]
    assert log_mean(chords(vertices)) < log_mean(chords(others))
    assert log_variance(chords(vertices)) < 1e-25 < log_variance(chords(others))


def test_nearest_etf_undoes_rotation_scale_and_noise():
    vertices = etf(5, 9)
    torch.testing.assert_close(nearest_etf(7 * vertices + 3), vertices, rtol=0, atol=1e-12)
    noise = 0.1 * torch.randn(5, 9, dtype=torch.float64, generator=torch.manual_seed(0))
    rows = vertices + noise - noise.mean(dim=0)
    found, overlap = nearest_etf(rows), float((nearest_etf(rows) * rows).sum())
    torch.testing.assert_close(found @ found.T, vertices @ vertices.T, rtol=0, atol=1e-12)  # a simplex ETF
    others = [vertices, *(etf(5, 9, seed) for seed in range(1, 20))]
    assert all(overlap > float((other * rows).sum()) for other in others)  # no other ETF lies as near


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (torch.ones(1, 4), "1 classes in 4 features: a simplex ETF needs"),
        (torch.randn(5, 3), "5 classes in 3 features: a simplex ETF needs"),
        (torch.eye(4)[[0, 1, 1, 1]], "span fewer than K - 1 = 3 dimensions"),
    ],
)
def test_there_is_not_always_a_nearest_etf(rows, reason):
    with pytest.raises(Undefined, match=reason):
        nearest_etf(rows.double())


def test_smallest_angle_of_each_class():
    turned = torch.tensor([0.0, 1e-6, 90.0, 210.0]).double().deg2rad()
    rows = torch.stack([turned.cos(), turned.sin()], dim=1) * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    angles = smallest_angles(chords(rows), 4)
    assert angles.tolist() == pytest.approx([1e-6, 1e-6, 90 - 1e-6, 120], rel=1e-6)


def test_orthogonal_frame():
    frame = rotation(8)[:5] * 3
    metrics = measure(statistics_of(frame.repeat(2, 1), torch.arange(5).repeat(2), 5), head_of(frame))
    assert metrics.gof_mean_abs_cosine_uncentred == pytest.approx(0, abs=1e-12)
    assert metrics.nc2_equiangular_means == pytest.approx(0, abs=1e-12)  # centred, it is the simplex
    assert metrics.nc2_equiangular_weights == pytest.approx(1 / 4)
    assert metrics.effective_rank_weights == pytest.approx(5)
    assert metrics.smallest_angle_weights == pytest.approx(90)
    assert metrics.smallest_angles_weights == pytest.approx([90] * 5)


def test_ortho_dev_as_constructed():
    means = torch.eye(4, 6, dtype=torch.float64) * 2
    statistics, head = statistics_of(means, torch.arange(4), 4), head_of(means)
    away, along = torch.eye(6, dtype=torch.float64)[4:].repeat(3, 1), means[:1].repeat(3, 1) * -7
    labels = torch.full((6,), -1)
    assert ortho_dev(split_of(away, head, labels), statistics) == 0
    assert ortho_dev(split_of(along, head, labels[:3]), statistics) == pytest.approx(1 / 4)
    with pytest.raises(Undefined, match="length 0"):
        ortho_dev(split_of(torch.cat([along, -along]), head, labels), statistics)


# -------------------------------------------------------------------- invariances


@pytest.mark.parametrize("mean", ["classes", "samples"])
def test_rotation_scaling_and_translation(mean):
    features, labels, head = imbalanced()
    reference = measure(statistics_of(features, labels, 4), head, mean)
    turn = rotation(7, seed=3)
    turned = measure(statistics_of(features @ turn, labels, 4), head_of(head.weight @ turn), mean)
    assert_same(turned, reference, skip=["mean_norm_l1"])
    shifted = measure(statistics_of(features + 5, labels, 4), head, mean)
    assert_same(shifted, reference, skip=UNCENTRED)
    scaled = measure(statistics_of(features * 8, labels, 4), head, mean)
    assert_same(scaled, reference, skip={*LENGTHS, "mean_norm_l1"})
    for name, power in LENGTHS.items():
        assert getattr(scaled, name) == pytest.approx(8**power * np.array(getattr(reference, name)), **EXACT)
    heavier = measure(statistics_of(features, labels, 4), head_of(head.weight * 8), mean)
    assert_same(heavier, reference, skip=["nc2_weight_norms"])
    assert heavier.nc2_weight_norms == pytest.approx([8 * norm for norm in reference.nc2_weight_norms])


def test_order_of_classes_does_not_count():
    features, labels, head = imbalanced()
    place = torch.tensor([2, 0, 3, 1])  # class k becomes place[k]
    reference = measure(statistics_of(features, labels, 4), head).to_dict()
    got = measure(statistics_of(features, place[labels], 4), head_of(head.weight[place.argsort()])).to_dict()
    assert set(got["minority_classes"]) == {int(place[k]) for k in reference["minority_classes"]}
    for name, expected in reference.items():
        if isinstance(expected, tuple) and name not in ("minority_classes", "classes"):
            got[name] = tuple(got[name][place[k]] for k in range(4))
        if name not in ("minority_classes", "classes"):
            assert got[name] == near(expected), name


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data(), ratio=st.sampled_from([0.0, 1.0, 1e4]))
def test_any_split_of_the_data_gives_the_same_metrics(data, ratio):
    features, labels, head = imbalanced(ratio=ratio)
    order = torch.tensor(data.draw(st.permutations(range(len(labels)))))
    cuts = sorted({0, len(labels), *data.draw(st.lists(st.integers(0, len(labels)), max_size=6))})
    merged = ClassStatistics(4, 7)
    for start, stop in zip(cuts, cuts[1:]):
        rows = order[start:stop]
        merged.merge(statistics_of(features[rows], labels[rows], 4))
    # At a mean of 1e4 the means themselves carry 1e-12 of the spread, and squares of cosines near 0 a little more.
    assert_same(measure(merged, head), measure(statistics_of(features, labels, 4), head), rel=1e-10, abs=1e-10)


def test_float32_far_from_the_origin_agrees_with_float64():
    features, labels, head = imbalanced((400, 200, 100, 50), ratio=1e4)
    single = features.float()
    kept = single.double() - 1e4  # what float32 has left of the features, exactly
    far, close = (measure(statistics_of(rows, labels, 4), head) for rows in (single, kept))
    assert_same(far, close, skip=UNCENTRED, rel=1e-6, abs=1e-8)
    raw = measure(statistics_of(single.double(), labels, 4), head)
    assert_same(far, raw, rel=1e-6)
    splits = [split_of(rows, head, labels) for rows in (single.double(), single)]
    agreements = {nearest_centre(split, statistics_of(single, labels, 4)).accuracy for split in splits}
    assert len(agreements) == 1


def test_distances_to_centres_keep_their_digits_far_from_the_origin():
    features, labels, _ = imbalanced()
    centres = statistics_of(features, labels, 4).means
    expected = (features[:, None] - centres).norm(dim=2)
    offset = 2.0**20  # of which sums with the features lose 1e-10
    torch.testing.assert_close(centre_distances(features + offset, centres + offset), expected, rtol=0, atol=1e-7)


def test_weighted_and_unweighted_mean_are_both_there():
    features, labels, head = imbalanced()
    statistics = statistics_of(features, labels, 4)
    means = np.stack([features[labels == k].mean(0) for k in range(4)])
    for convention, centre in (("classes", means.mean(0)), ("samples", features.numpy().mean(0))):
        metrics = measure(statistics, head, mean=convention)
        assert metrics.mean_convention == convention
        assert metrics.nc2_centred_norms == pytest.approx(np.linalg.norm(means - centre, axis=1), **EXACT)
    with pytest.raises(PluginError, match="mean: must be one of classes, samples, got 'median'"):
        measure(statistics, head, mean="median")


# -------------------------------------------------------------------- classes that are absent, single, merged


def test_an_absent_class_is_masked_and_counted():
    features, labels, head = imbalanced()
    present = torch.tensor([0, 2, 3, 5])
    wide = head_of(torch.full((7, 7), 9.0, dtype=torch.float64).index_copy(0, present, head.weight))
    got = measure(statistics_of(features, present[labels], 7), wide)
    assert (got.num_classes, got.classes, got.class_counts) == (7, (0, 2, 3, 5), (40, 20, 10, 5))
    expected = measure(statistics_of(features, labels, 4), head)
    assert_same(got, expected, skip=["num_classes", "classes", "minority_classes", "notes"])
    masked = "3 of 7 classes have no training sample; they are masked, every metric is of the other 4"
    assert got.notes == {**expected.notes, "classes": masked}
    assert got.minority_classes == (3, 5)


def test_predictions_of_an_absent_class_disagree():
    means = torch.eye(3, dtype=torch.float64)
    statistics = statistics_of(means[::2], torch.tensor([0, 2]), 3)
    found = nearest_centre(split_of(means, head_of(means), torch.arange(3)), statistics)
    assert (found.agreement, found.accuracy) == (2 / 3, 2 / 3)


def test_a_class_of_one_sample_has_no_variance():
    features, labels, head = imbalanced((40, 20, 10, 1))
    statistics = statistics_of(features, labels, 4)
    metrics = measure(statistics, head)
    assert metrics.class_variances[3] is None
    assert None not in metrics.class_variances[:3]
    assert "1 of 4 classes have one sample" in metrics.notes["class_variances"]
    several = labels < 3
    assert metrics.nc1_cdnv == pytest.approx(nc1_cdnv(statistics_of(features[several], labels[several], 3)), **EXACT)


def test_one_sample_of_each_class():
    features, labels, head = imbalanced((1, 1, 1, 1))
    metrics = measure(statistics_of(features, labels, 4), head)
    assert metrics.class_variances == (None,) * 4
    assert metrics.nc1_pinv is metrics.nc1_quotient is metrics.nc1_cdnv is None
    assert "two samples" in metrics.notes["nc1_pinv"]
    assert metrics.nc2_etf_error is not None
    assert "largest / smallest class is 1;" in metrics.notes["gof_slope_means"]


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4 / 3])
def test_constant_features(constant):
    """0.1 is no binary number: means of different classes differ by rounding, which must not count."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([5000, 300, 7]))
    features = torch.full((len(labels), 4), constant, dtype=torch.float64)
    weight = torch.randn(3, 4, generator=torch.manual_seed(0))
    metrics = measure(statistics_of(features, labels, 3), head_of(weight))
    undefined = ["nc1_pinv", "nc1_quotient", "nc1_cdnv", "nc2_etf_error", "nc2_equiangular_means", "gnc2_log_mean"]
    for name in [*undefined, "nc3_cosines", "nc3_self_duality", "smallest_angle_means", "effective_rank_means"]:
        assert getattr(metrics, name) is None, name
        assert "\n" not in metrics.notes[name]
    assert metrics.between_rank == 0
    assert metrics.nc2_centred_norms == (0, 0, 0)
    assert metrics.nc2_equinorm_weights is not None


def test_one_class():
    features, labels, head = imbalanced((30,))
    metrics = measure(statistics_of(features, labels, 1), head)
    for name in ("nc1_pinv", "nc1_quotient", "nc1_cdnv", "nc2_equinorm_weights", "nc3_cosines", "nc3_cosine_std"):
        assert getattr(metrics, name) is None, name
        assert metrics.notes[name].startswith("collapse: ")
    assert metrics.class_variances[0] == pytest.approx(features.var(dim=0, correction=0).sum())


def test_equal_means_and_zero_weights_are_named():
    features = torch.tensor([[1.0, 0], [1, 2], [1, 0], [1, 2], [5, 5], [6, 6]])
    statistics = statistics_of(features, torch.tensor([0, 0, 1, 1, 2, 2]), 3)
    metrics = measure(statistics, head_of(torch.tensor([[0.0, 0], [1, 0], [0, 1]])))
    assert metrics.notes["nc1_cdnv"] == "collapse: 1 of 3 pairs of classes have the same mean"
    assert metrics.notes["nc3_cosines"] == "collapse: 1 of 3 vectors have length 0, so no direction"
    assert metrics.nc3_self_duality is not None
    assert metrics.between_rank == 1
    # Sigma_B has rank 1, along (1, 1), and what lies across does not count: lengths sqrt(2) * 1.5 * (1, 1, 2).
    within = float(statistics.within_scatter.sum() / 2 / 6)
    between = between_directions(centred_means(statistics))
    assert nc1_pinv(statistics, between) == pytest.approx(within / (2 * 1.5**2 * 6 / 3) / 3, **EXACT)


def test_rcond_decides_which_directions_count():
    means = torch.tensor([[0.0, 0], [4, 0], [0, 1e-2]], dtype=torch.float64)
    spread = torch.tensor([[0.0, 1], [0, -1]], dtype=torch.float64)
    features, labels = (means[:, None] + spread).reshape(-1, 2), torch.arange(3).repeat_interleave(2)
    statistics, head = statistics_of(features, labels, 3), head_of(means + 1)
    exact, cut = measure(statistics, head), measure(statistics, head, rcond=1e-3)
    assert (exact.between_rank, cut.between_rank, cut.rcond) == (2, 1, 1e-3)
    assert exact.nc1_pinv > 1e3
    assert cut.nc1_pinv < 1e-4
    with pytest.raises(PluginError, match="rcond: must be a finite number, at least 0"):
        measure(statistics, head, rcond=math.nan)


def test_merged_minority_classes():
    """Fang et al. 2021: under strong imbalance the minority classes end up in one direction."""
    weight = etf(4, 6)[[0, 1, 2, 3, 3, 3]]
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor([100, 100, 100, 2, 2, 2]))
    noise = 0.02 * torch.randn(len(labels), 6, dtype=torch.float64, generator=torch.manual_seed(0))
    metrics = measure(statistics_of(weight[labels] + noise, labels, 6), head_of(weight))
    assert metrics.minority_classes == (3, 4, 5)
    assert metrics.imbalance_ratio == 50
    assert metrics.minority_cosine_weights == pytest.approx(1, abs=1e-12)
    assert 0.9 < metrics.minority_cosine_means < 1
    assert metrics.smallest_angle_weights == pytest.approx(0, abs=1e-6)
    assert metrics.effective_rank_weights < 3
    assert "same direction" not in metrics.notes.get("gnc2_log_mean", "")
    with pytest.raises(Undefined, match="3 of 15 pairs of classes have the same direction"):
        log_mean(chords(weight))


@pytest.mark.parametrize(("counts", "minority"), [((19, 12, 11, 10), ()), ((20, 12, 11, 10), (1, 2, 3))])
def test_class_sizes_count_as_unequal_from_twice_on(counts, minority):
    """Below, a slope against them would be noise, as large as one likes."""
    features, labels, head = imbalanced(counts)
    metrics = measure(statistics_of(features, labels, 4), head)
    assert metrics.minority_classes == minority
    for name in ("gof_slope_means", "gof_slope_weights", "minority_cosine_means", "minority_cosine_weights"):
        assert (getattr(metrics, name) is None) == (not minority), name
    assert ("defined from 2 on" in metrics.notes.get("gof_slope_means", "")) == (not minority)


def test_slopes_of_a_general_orthogonal_frame():
    """Lengths that grow as a power of the class size give that power."""
    counts = torch.tensor([400, 100, 25, 4])
    frame = rotation(5)[:4]
    means, weight = frame * counts[:, None] ** 0.5, frame * counts[:, None] ** 0.25
    labels = torch.repeat_interleave(torch.arange(4), counts)
    metrics = measure(statistics_of(means[labels], labels, 4), head_of(weight))
    assert metrics.gof_slope_means == pytest.approx(0.5)
    assert metrics.gof_slope_weights == pytest.approx(0.25)
    assert metrics.gof_mean_abs_cosine_uncentred == pytest.approx(0, abs=1e-12)


# -------------------------------------------------------------------- held-out splits, refusals, the form of the result


def test_held_out_splits_are_streamed_chunk_by_chunk(golden, digits, monkeypatch):
    statistics, _ = digits
    data = golden.features("test")
    whole = split_of(data.features.double(), golden.head, data.labels)
    shards = FeatureSplit([chunk for shard in whole.shards for chunk in (shard.rows(0, 7), shard.rows(7, len(shard)))])
    monkeypatch.setattr(FeatureSplit, "features", property(lambda split: pytest.fail("all features at once")))
    assert nearest_centre(shards, statistics) == nearest_centre(whole, statistics)
    assert ortho_dev(shards, statistics) == pytest.approx(ortho_dev(whole, statistics), **EXACT)
    cdnv = nc1_cdnv(statistics_of(data.features, data.labels, 6))
    assert held_out_cdnv(shards, 6) == pytest.approx(cdnv, **EXACT)
    z, mu = whole.logits.numpy(), statistics.means.numpy()
    nearest = np.linalg.norm(data.features.double().numpy()[:, None] - mu, axis=2).argmin(1)
    assert nearest_centre(whole, statistics).agreement == (nearest == z.argmax(1)).mean()
    assert nearest_centre(whole, statistics).accuracy == (nearest == data.labels.numpy()).mean()


def test_nc4_is_about_the_decision_with_bias():
    means = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    statistics, labels = statistics_of(means, torch.arange(2), 2), torch.arange(2)
    assert nearest_centre(split_of(means, LinearHead(means, torch.zeros(2)), labels), statistics).agreement == 1
    assert (
        nearest_centre(split_of(means, LinearHead(means, torch.tensor([9.0, 0])), labels), statistics).agreement == 0.5
    )


def test_what_does_not_belong_together_is_refused():
    features, labels, head = imbalanced()
    statistics = statistics_of(features, labels, 4)
    with pytest.raises(PluginError, match="4 classes and 7 features, the head has 4 and 6"):
        measure(statistics, head_of(torch.ones(4, 6)))
    with pytest.raises(PluginError, match="hold no sample"):
        measure(ClassStatistics(4, 7), head)
    with pytest.raises(PluginError, match="squared weight of the head: row 1 holds NaN"):
        measure(statistics, head_of(torch.ones(4, 7).index_fill(0, torch.tensor([1]), math.nan)))
    for function in (nearest_centre, ortho_dev):
        with pytest.raises(PluginError, match="the split holds no sample"):
            function(FeatureSplit([]), statistics)
        with pytest.raises(PluginError, match=r"expected features of shape \(n, 7\), got \(2, 6\)"):
            function(FeatureSplit.of(torch.zeros(2, 6), torch.zeros(2, 4), torch.zeros(2)), statistics)
        bad = torch.tensor([[0.0] * 7, [math.nan] * 7])
        with pytest.raises(PluginError, match="row 1 holds NaN"):
            function(FeatureSplit([Chunk(bad, torch.zeros(2, 4), torch.zeros(2))]), statistics)
    with pytest.raises(PluginError, match="the split holds no sample"):
        held_out_cdnv(FeatureSplit([]), 4)


def test_values_beyond_the_range_are_refused_or_none_with_a_reason():
    features, labels, head = imbalanced()
    with pytest.raises(PluginError, match="squares of the features are beyond float64"):
        measure(statistics_of(features * 1e200, labels, 4), head)
    with pytest.raises(PluginError, match="squared weight of the head: row 0 holds NaN or infinity"):
        measure(statistics_of(features, labels, 4), head_of(head.weight * 1e200))
    state = statistics_of(features, labels, 4).state_dict()
    state["means"] *= 1e-120
    state["within_scatter"] *= 1e120
    metrics = measure(ClassStatistics.from_state_dict(state), head)
    assert metrics.nc1_quotient is None
    assert "range of float64" in metrics.notes["nc1_quotient"]


def test_every_number_goes_through_json():
    for counts in ((40, 20, 10, 5), (1, 1), (3,), (5, 5, 5)):
        features, labels, head = imbalanced(counts, width=2)
        metrics = measure(statistics_of(features, labels, len(counts)), head)
        saved = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
        assert {name for name, value in saved.items() if value is None} <= saved["notes"].keys()
        assert saved["nc1_quotient"] == metrics.nc1_quotient


def test_equations_alone_raise_what_measure_notes():
    features, labels, _ = imbalanced((3,))
    with pytest.raises(Undefined, match="the class means are all equal"):
        nc1_quotient(statistics_of(features, labels, 1))
