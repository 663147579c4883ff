"""ClassStatistics against a two-pass computation in float64, for any split, order and tree of merges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nci_plugin.checks import PluginError
from nci_plugin.features.statistics import BUFFER_ROWS, PRODUCT_COLUMNS, ClassStatistics

RELATIVE = 1e-10
NAMES = ("counts", "means", "within_scatter", "class_scatter_traces", "l1_norm_sums", "l2_norm_sums")
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def reference(features, labels, num_classes):
    """Two passes in float64, class by class."""
    rows, labels = features.double().numpy(), labels.numpy()
    width = rows.shape[1]
    result = {
        "counts": np.bincount(labels, minlength=num_classes).astype(float),
        "means": np.zeros((num_classes, width)),
        "within_scatter": np.zeros((width, width)),
        "class_scatter_traces": np.zeros(num_classes),
        "l1_norm_sums": np.zeros(num_classes),
        "l2_norm_sums": np.zeros(num_classes),
    }
    for k in np.unique(labels):
        members = rows[labels == k]
        result["means"][k] = members.mean(axis=0)
        centred = members - result["means"][k]
        result["within_scatter"] += centred.T @ centred
        result["class_scatter_traces"][k] = (centred**2).sum()
        result["l1_norm_sums"][k] = np.abs(members).sum()
        result["l2_norm_sums"][k] = np.sqrt((members**2).sum(axis=1)).sum()
    result["global_mean"] = rows.mean(axis=0)
    result["covariance"] = np.cov(rows.T, bias=True).reshape(width, width)
    return result


def assert_equals_reference(statistics, features, labels):
    expected = reference(features, labels, statistics.num_classes)
    for name, values in expected.items():
        got = getattr(statistics, name)
        assert got.dtype == torch.float64, name
        assert got.shape == values.shape, name
        difference = np.linalg.norm(got.numpy() - values)
        assert difference <= RELATIVE * np.linalg.norm(values), f"{name}: off by {difference:.3e}"
    assert statistics.num_samples == len(labels)


def make_rows(num_rows, width, num_classes, ratio, seed, scale=1.0):
    """Rows whose mean is ``ratio`` times their spread, made in float64, kept in float32."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_rows)
    centres = generator.normal(size=(num_classes, width))
    rows = scale * (ratio + centres[labels] + generator.normal(size=(num_rows, width)))
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(labels)


def merge_as_tree(parts, choose):
    """Merge neighbours that ``choose`` points at until one is left."""
    while len(parts) > 1:
        left = choose(len(parts) - 1)
        parts[left].merge(parts.pop(left + 1))
    return parts[0]


def from_splits(features, labels, num_classes, data):
    """Statistics of the rows, shuffled, cut into shards of batches and merged in a tree, as ``data`` decides."""
    order = torch.tensor(data.draw(st.permutations(range(len(labels))), label="order"), dtype=torch.long)
    features, labels = features[order], labels[order]
    cuts = data.draw(st.lists(st.integers(0, len(labels)), max_size=8), label="batch borders")
    borders = sorted([0, *cuts, len(labels)])
    shards = [ClassStatistics(num_classes, features.shape[1])]
    for start, stop in zip(borders, borders[1:]):
        if data.draw(st.booleans(), label="new shard"):
            shards.append(ClassStatistics(num_classes, features.shape[1]))
        shards[-1].update(features[start:stop], labels[start:stop])
        if data.draw(st.booleans(), label="look at the state in between"):
            assert shards[-1].counts.sum() >= 0
    return merge_as_tree(shards, lambda last: data.draw(st.integers(0, last - 1) if last > 1 else st.just(0)))


@PROPERTY
@given(
    data=st.data(),
    num_rows=st.integers(1, 40),
    width=st.integers(1, 6),
    num_classes=st.integers(1, 5),
    ratio=st.sampled_from([0.0, 1.0, 100.0, 1e4, -1e4]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 10**6),
)
def test_any_split_order_and_tree_gives_the_two_pass_result(data, num_rows, width, num_classes, ratio, scale, seed):
    features, labels = make_rows(num_rows, width, num_classes, ratio, seed, scale)
    assert_equals_reference(from_splits(features, labels, num_classes, data), features, labels)


@pytest.mark.parametrize("ratio", [0.0, 1e4])
def test_wide_features_and_many_classes(ratio):
    features, labels = make_rows(3000, 64, 20, ratio, seed=1)
    statistics = ClassStatistics(20, 64)
    for rows, classes in zip(features.split(170), labels.split(170)):
        statistics.merge(ClassStatistics(20, 64).update(rows, classes))
    assert_equals_reference(statistics, features, labels)


@pytest.mark.parametrize("batch_size", [100, BUFFER_ROWS - 1, BUFFER_ROWS, BUFFER_ROWS + 1, 3 * BUFFER_ROWS])
def test_more_rows_than_the_buffer(batch_size):
    features, labels = make_rows(2 * BUFFER_ROWS + 137, 5, 3, 1e4, seed=2)
    statistics = ClassStatistics(3, 5)
    for rows, classes in zip(features.split(batch_size), labels.split(batch_size)):
        statistics.update(rows, classes)
    assert_equals_reference(statistics, features, labels)


@pytest.mark.parametrize("width", [PRODUCT_COLUMNS, 2 * PRODUCT_COLUMNS + 37])
def test_wide_features_are_multiplied_by_columns(width):
    features, labels = make_rows(300, width, 3, 10.0, seed=5)
    statistics = ClassStatistics(3, width)
    for rows, classes in zip(features.split(70), labels.split(70)):
        statistics.merge(ClassStatistics(3, width).update(rows, classes))
    assert_equals_reference(statistics, features, labels)
    assert torch.equal(statistics.within_scatter, statistics.within_scatter.T)


def test_sorted_by_class_and_one_row_at_a_time():
    features, labels = make_rows(60, 4, 3, 1e4, seed=3)
    order = labels.argsort()
    statistics = ClassStatistics(3, 4)
    for row, label in zip(features[order], labels[order]):
        statistics.merge(ClassStatistics(3, 4).update(row[None], label[None]))
    assert_equals_reference(statistics, features, labels)


def test_float64_features():
    features, labels = make_rows(50, 4, 3, 1e4, seed=4)
    assert_equals_reference(ClassStatistics(3, 4).update(features.double(), labels), features, labels)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_of_any_integer_type(dtype):
    features, labels = make_rows(50, 4, 3, 1.0, seed=4)
    assert_equals_reference(ClassStatistics(3, 4).update(features, labels.to(dtype)), features, labels)


def test_columns_of_a_larger_matrix():
    features, labels = make_rows(50, 8, 3, 1.0, seed=5)
    assert_equals_reference(ClassStatistics(3, 4).update(features[:, ::2], labels), features[:, ::2], labels)


def test_absent_classes_have_count_zero_and_change_nothing():
    features, labels = make_rows(30, 4, 2, 100.0, seed=6)
    labels = 1 + 2 * labels  # of 0..5 only 1 and 3 come
    statistics = ClassStatistics(6, 4).update(features[:11], labels[:11])
    statistics.merge(ClassStatistics(6, 4)).merge(ClassStatistics(6, 4).update(features[11:], labels[11:]))
    assert_equals_reference(statistics, features, labels)
    assert statistics.counts.tolist()[0] == 0
    assert all(torch.isfinite(getattr(statistics, name)).all() for name in NAMES)


def test_class_that_comes_only_in_the_other():
    features, labels = make_rows(20, 3, 2, 100.0, seed=7)
    one, two = (ClassStatistics(2, 3).update(features[labels == k], labels[labels == k]) for k in (0, 1))
    assert_equals_reference(one.merge(two), features, labels)


def test_a_class_of_one_sample_has_its_feature_as_mean_and_no_scatter():
    features = torch.tensor([[1e4, 3.0], [2.0, -5.0]])
    statistics = ClassStatistics(2, 2).update(features, torch.tensor([0, 1]))
    assert torch.equal(statistics.means, features.double())
    assert not statistics.within_scatter.any()
    assert not statistics.class_scatter_traces.any()
    assert_equals_reference(statistics, features, torch.tensor([0, 1]))


def test_covariance_is_numpys_population_covariance_and_symmetric():
    features, labels = make_rows(200, 6, 4, 10.0, seed=8)
    covariance = ClassStatistics(4, 6).update(features, labels).covariance
    expected = np.cov(features.double().numpy().T, bias=True)
    np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(covariance, covariance.T)


def test_global_mean_counts_samples_not_classes():
    features = torch.tensor([[0.0], [0.0], [0.0], [4.0]])
    assert ClassStatistics(2, 1).update(features, torch.tensor([0, 0, 0, 1])).global_mean.tolist() == [1.0]


def test_trace_of_the_scatter_is_the_sum_of_the_class_traces():
    features, labels = make_rows(100, 5, 3, 1e3, seed=9)
    statistics = ClassStatistics(3, 5).update(features, labels)
    assert statistics.within_scatter.trace().item() == pytest.approx(statistics.class_scatter_traces.sum().item())


def test_no_rows_leave_everything_as_it_was():
    features, labels = make_rows(10, 3, 2, 1.0, seed=10)
    statistics = ClassStatistics(2, 3).update(features[:0], labels[:0]).update(features, labels)
    assert_equals_reference(statistics.update(features[:0], labels[:0]), features, labels)
    assert ClassStatistics(2, 3).num_samples == 0


# -------------------------------------------------------------------- what is stored


def test_state_round_trip_and_further_merging():
    features, labels = make_rows(90, 4, 3, 1e4, seed=11)
    first = ClassStatistics(3, 4).update(features[:50], labels[:50])
    again = ClassStatistics.from_state_dict(first.state_dict())
    assert set(again.state_dict()) == set(NAMES)
    for name, tensor in first.state_dict().items():
        assert tensor.dtype == torch.float64
        assert torch.equal(again.state_dict()[name], tensor)
    assert_equals_reference(again.update(features[50:], labels[50:]), features, labels)


def test_rebuilt_statistics_share_no_memory_with_the_state():
    features, labels = make_rows(30, 4, 3, 1.0, seed=12)
    state = ClassStatistics(3, 4).update(features, labels).state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    assert ClassStatistics.from_state_dict(state).update(features, labels).num_samples == 60
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())


def test_a_stored_state_does_not_change_with_later_batches():
    features, labels = make_rows(30, 4, 3, 1.0, seed=13)
    statistics = ClassStatistics(3, 4).update(features, labels)
    state = statistics.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    assert statistics.update(features, labels).num_samples == 60
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())


# -------------------------------------------------------------------- whose memory


def test_merge_leaves_the_other_as_it_was():
    features, labels = make_rows(40, 4, 3, 1e3, seed=14)
    other = ClassStatistics(3, 4).update(features[:25], labels[:25])
    merged = ClassStatistics(3, 4).update(features[25:], labels[25:]).merge(other)
    assert_equals_reference(other, features[:25], labels[:25])
    merged.update(features, labels)
    assert merged.num_samples == 80
    assert_equals_reference(other, features[:25], labels[:25])


def test_merge_with_itself_is_every_sample_twice():
    features, labels = make_rows(20, 4, 3, 1e3, seed=15)
    statistics = ClassStatistics(3, 4).update(features, labels)
    assert_equals_reference(statistics.merge(statistics), torch.cat([features] * 2), torch.cat([labels] * 2))


def test_the_callers_batch_may_be_reused_in_place():
    features, labels = make_rows(60, 4, 3, 10.0, seed=16)
    statistics = ClassStatistics(3, 4)
    batch, classes = torch.empty(20, 4), torch.empty(20, dtype=torch.long)
    for start in range(0, 60, 20):
        batch.copy_(features[start : start + 20])
        classes.copy_(labels[start : start + 20])
        statistics.update(batch, classes)
    batch.zero_()
    classes.zero_()
    assert_equals_reference(statistics, features, labels)


def test_the_callers_batch_is_not_changed():
    features, labels = make_rows(BUFFER_ROWS, 4, 3, 10.0, seed=17)
    doubled, kept_labels = features.double(), labels.clone()
    ClassStatistics(3, 4).update(doubled, labels)
    assert torch.equal(doubled, features.double())
    assert torch.equal(labels, kept_labels)


def test_features_that_need_a_gradient_are_taken_without_it():
    features, labels = make_rows(20, 4, 3, 1.0, seed=18)
    statistics = ClassStatistics(3, 4).update(features.requires_grad_(), labels)
    assert not statistics.means.requires_grad


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_merge_of_another_shape_is_an_error(shape):
    with pytest.raises(PluginError, match="cannot merge"):
        ClassStatistics(3, 4).merge(ClassStatistics(*shape))


BAD_BATCHES = {
    "NaN": (torch.tensor([[0.0, 1.0], [2.0, float("nan")]]), torch.tensor([0, 1]), "row 1 holds NaN or infinity"),
    "infinity": (torch.tensor([[float("-inf"), 1.0], [2.0, 0.0]]), torch.tensor([0, 1]), "row 0 holds NaN or infinity"),
    "label K": (torch.ones(2, 2), torch.tensor([0, 3]), r"label 3 at row 1 is outside 0\.\.2"),
    "label -1": (torch.ones(2, 2), torch.tensor([-1, 0]), r"label -1 at row 0 is outside 0\.\.2"),
    "wrong width": (torch.ones(2, 3), torch.tensor([0, 1]), r"expected features of shape \(n, 2\), got \(2, 3\)"),
    "one row without batch": (torch.ones(2), torch.tensor([0, 1]), "expected features"),
    "fewer labels": (torch.ones(3, 2), torch.tensor([0, 1]), "label"),
    "more labels": (torch.ones(1, 2), torch.tensor([0, 1]), "label"),
}


@pytest.mark.parametrize("kind", BAD_BATCHES)
@pytest.mark.parametrize("pending", [True, False])
def test_a_refused_batch_merges_nothing(kind, pending):
    good, good_labels = make_rows(10, 2, 3, 1.0, seed=19)
    statistics = ClassStatistics(3, 2).update(good, good_labels)
    if not pending:
        assert statistics.num_samples == 10
    features, labels, message = BAD_BATCHES[kind]
    with pytest.raises(PluginError, match=message):
        statistics.update(features, labels)
    assert_equals_reference(statistics, good, good_labels)


def test_large_finite_features_are_not_taken_for_infinity():
    features = torch.full((4, 3), 3e38)  # their float32 sum overflows
    statistics = ClassStatistics(1, 3).update(features, torch.zeros(4, dtype=torch.long))
    assert_equals_reference(statistics, features, torch.zeros(4, dtype=torch.long))
