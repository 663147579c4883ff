"""The gates of labels and features: what a user may bring, what it becomes, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nci_plugin import Benchmark, ClassStatistics, CollapseMonitor, Features, PluginError, evaluate, metrics
from nci_plugin.collapse import nearest_centre
from nci_plugin.features.split import FeatureSplit
from nci_plugin.rows import feature_rows, id_labels, whole_labels
from nci_plugin.training.train import Recipe, train

LABELS = [0, 2, 1, 2, 0]

FORMS: dict[str, Any] = {
    "int64": torch.tensor(LABELS),
    "int8": torch.tensor(LABELS, dtype=torch.int8),
    "column": torch.tensor(LABELS)[:, None],
    "two more dimensions": torch.tensor(LABELS)[:, None, None],
    "float": torch.tensor(LABELS).float(),
    "bfloat16": torch.tensor(LABELS).bfloat16(),
    "with a graph": torch.tensor(LABELS).float().requires_grad_(),
    "list": LABELS,
    "tuple": tuple(LABELS),
    "list of tensors": [torch.tensor(label) for label in LABELS],
    "list of columns": [torch.tensor([label]) for label in LABELS],
    "numpy": np.array(LABELS),
    "uint16": np.array(LABELS, np.uint16),
    "uint64": np.array(LABELS, np.uint64),
    "long double": np.array(LABELS, np.longdouble),
    "big-endian": np.array(LABELS, ">i4"),
    "reversed view": np.array(LABELS[::-1])[::-1],
    "numpy column": np.array(LABELS)[:, None],
    "whole floats": np.array(LABELS, float),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_any_form_become_whole_numbers(form):
    labels = id_labels("split", FORMS[form], 5, 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS


def test_labels_of_an_array_that_cannot_be_written(recwarn):
    array = np.array(LABELS)
    array.setflags(write=False)
    assert id_labels("split", array, 5, 3).tolist() == LABELS
    assert not recwarn.list


BAD: dict[str, tuple[Any, str]] = {
    "one-hot": (torch.eye(5), "argmax"),
    "one-hot of one sample a class": (np.eye(5)[LABELS], "argmax"),
    "a row": (torch.tensor([LABELS]), "got shape"),
    "too few": (LABELS[:4], "got shape"),
    "too many": ([*LABELS, 0], "got shape"),
    "one number": (torch.tensor(3), "got shape"),
    "NaN": ([0, 1, float("nan"), 1, 0], "label nan at row 2 is no whole number"),
    "infinity": ([0, 1, 1, float("inf"), 0], "label inf at row 3"),
    "fractions": (np.array(LABELS) + 0.9, "label 0.9 at row 0 is no whole number"),
    "beyond int64": ([0.0, 1e300, 0, 0, 0], "at row 1"),
    "negative": ([0, 1, -1, 1, 0], r"label -1 at row 2 is outside 0\.\.4"),
    "large": ([0, 1, 5, 1, 0], r"label 5 at row 2 is outside 0\.\.4"),
    "uint64 beyond int64": (np.array([2**64 - 1, 0, 0, 0, 0], np.uint64), "at row 0"),
    "True and False": ([True, False, True, True, False], "True and False"),
    "texts": (["cat", "dog", "cat", "cat", "dog"], "must be numbers, got list of 'cat'"),
    "None": ([None] * 5, "must be numbers"),
    "ragged": ([[0], [1, 2], [0], [1], [2]], "array of numbers"),
    "tensors of several shapes": ([torch.tensor(0), torch.tensor([1])], "one shape"),
    "a mapping": ({0: 1}, "must be numbers, got dict"),
    "a generator": ((label for label in LABELS), "must be numbers, got generator"),
    "dates": (np.array(["2020-01-01"] * 5, "datetime64[D]"), "must be numbers"),
    "complex": (torch.zeros(5, dtype=torch.complex64), "real numbers"),
    "sparse": (torch.zeros(5).to_sparse(), "sparse"),
    "meta": (torch.zeros(5, device="meta"), "meta"),
    "masked": (np.ma.array(LABELS, mask=[0, 0, 1, 0, 0]), "masked"),
}


@pytest.mark.parametrize("form", BAD)
def test_other_labels_are_refused_in_one_line(form):
    labels, message = BAD[form]
    with pytest.raises(PluginError, match=f"^the split: ?.*{message}") as caught:
        id_labels("the split", labels, 5, 5)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_true_and_false_are_labels_of_two_classes():
    assert id_labels("split", [True, False], 2, 2).tolist() == [1, 0]


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float16, 2048), (torch.bfloat16, 256)])
def test_a_type_that_rounds_labels_of_so_many_classes_is_refused(dtype, exact):
    """The label 2049 is 2048 in float16: in range, and wrong."""
    assert id_labels("split", torch.tensor([exact], dtype=dtype), 1, exact + 1).tolist() == [exact]
    with pytest.raises(PluginError, match=f"not exact beyond {exact}"):
        id_labels("split", torch.tensor([0], dtype=dtype), 1, exact + 2)


@given(
    st.lists(st.integers(-3, 12), min_size=1, max_size=20), st.integers(1, 10), st.sampled_from(["<i2", ">i8", "f4"])
)
@settings(max_examples=50, deadline=None)
def test_labels_are_kept_or_refused_never_changed(labels, num_classes, dtype):
    array = np.array(labels, dtype)
    outside = [index for index, label in enumerate(labels) if not 0 <= label < num_classes]
    if outside:
        with pytest.raises(PluginError, match=f"label {labels[outside[0]]} at row {outside[0]} "):
            id_labels("split", array, len(labels), num_classes)
    else:
        assert id_labels("split", array[:, None], len(labels), num_classes).tolist() == labels
    assert whole_labels("split", array, len(labels)).tolist() == labels


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_floats_are_labels_only_where_they_are_whole(values):
    try:
        labels = whole_labels("split", values, len(values)).tolist()
    except PluginError:
        assert any(not np.isfinite(value) or value != round(value) or abs(value) > 2**53 for value in values)
    else:
        assert labels == values


# -------------------------------------------------------------------- features

ROWS = [[0.5, -2.0], [1.0, 3.0], [0.0, 0.25]]


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor(ROWS),
        torch.tensor(ROWS).half(),
        torch.tensor(ROWS).bfloat16(),
        torch.tensor(ROWS).double().requires_grad_(),
        np.array(ROWS),
        np.array(ROWS, ">f8"),
        np.asfortranarray(ROWS),
        ROWS,
        [torch.tensor(row) for row in ROWS],
    ],
)
def test_features_of_any_form_become_float32(values):
    rows = feature_rows("split", values)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    assert rows.tolist() == ROWS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(3), "matrix"),
        (torch.zeros(3, 2, 1, 1), "flatten"),
        (torch.zeros(0, 2), "at least one"),
        (torch.zeros(3, 0), "at least one"),
        (torch.zeros(3, 2, dtype=torch.bool), "True and False"),
        (torch.zeros(3, 2, dtype=torch.complex64), "real"),
        (torch.zeros(3, 2).to_sparse(), "sparse"),
        (torch.zeros(3, 2, device="meta"), "meta"),
        ([["a"]], "numbers"),
        (None, "numbers"),
        (torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), "row 1 holds NaN"),
        (torch.tensor([[1.0, 2.0], [1e39, 0.0]], dtype=torch.float64), "float32: row 1 holds NaN or infinity"),
        (torch.full((2, 2), 1e-60, dtype=torch.float64), "too small for float32"),
    ],
)
def test_other_features_are_refused_in_one_line(values, message):
    with pytest.raises(PluginError, match=f"^split.*{message}"):
        feature_rows("split", values)


# -------------------------------------------------------------------- every path


def benchmark(toy: Any, **changed: Any) -> Benchmark:
    splits = {"train": Features(toy.train, toy.labels), "test": Features(toy.test, toy.labels), **changed}
    return Benchmark.from_splits("toy", 5, **{"far": {"far": Features(toy.far)}, **splits})


def numbers(evaluation: Any) -> list[Any]:
    assert not evaluation.failures
    return [(row.detector, row.dataset, row.auroc, row.fpr95, row.acc) for row in evaluation.results]


DETECTORS = ["msp", "nci", "neco", "knn", "nci_plus", "mds_pp", "ora"]


@pytest.mark.parametrize("bring", ["column", "graph", "numpy", "lists"])
def test_features_that_a_user_brings_give_the_same_numbers(toy, bring):
    def features(rows: torch.Tensor, labels: Any = None) -> Features:
        if bring == "column":
            return Features(rows, None if labels is None else labels[:, None])
        if bring == "graph":
            return Features(rows.clone().requires_grad_() * 1, labels, toy.head.logits(rows).requires_grad_())
        if bring == "numpy":
            return Features(rows.numpy(), None if labels is None else labels.numpy())
        return Features(rows.tolist(), ["no label is looked at"] if labels is None else labels.tolist())

    expected = evaluate(toy.head, benchmark(toy, csid={"c": Features(toy.train, toy.labels)}), DETECTORS)
    brought = benchmark(
        toy,
        train=features(toy.train, toy.labels),
        test=features(toy.test, toy.labels),
        csid={"c": features(toy.train, toy.labels)},
        far={"far": features(toy.far)},
    )
    assert numbers(evaluate(toy.head, brought, DETECTORS)) == numbers(expected)


@pytest.mark.parametrize("split", ["train", "test", "val", "csid"])
def test_bad_labels_name_their_split(toy, split):
    bad = Features(toy.test, torch.nn.functional.one_hot(toy.labels))
    splits = {"csid": {"c": bad}} if split == "csid" else {split: bad}
    with pytest.raises(PluginError, match=f"split '{'csid/c' if split == 'csid' else f'id/{split}'}': labels must be"):
        evaluate(toy.head, benchmark(toy, **splits), ["msp"])


def test_statistics_take_what_a_user_brings_and_merge_nothing_bad(toy):
    expected = ClassStatistics(5, 32).update(toy.train, toy.labels)
    got = ClassStatistics(5, 32).update(toy.train.numpy(), toy.labels[:, None].float())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, got.state_dict()[name])
    for labels in (torch.eye(5)[toy.labels], toy.labels + 0.5, toy.labels[:-1], ["cat"] * len(toy.labels)):
        with pytest.raises(PluginError, match="^statistics: "):
            got.update(toy.train, labels)
    assert got.num_samples == len(toy.train)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(30, 3, 2, 2, generator=generator), torch.arange(30) % 3


@pytest.mark.parametrize("samples", [None, 4])
def test_the_monitor_takes_what_loaders_give(batch, samples):
    images, labels = batch
    network = Small()

    def record(dataset: Any, collate: Any = None) -> Any:
        loader = DataLoader(dataset, 10, collate_fn=collate)
        return CollapseMonitor(network, loader, samples_per_class=samples).step(0)

    expected = record(TensorDataset(images, labels))
    column = record(TensorDataset(images, labels[:, None]))
    mapping = record(
        TensorDataset(images, labels),
        lambda items: {
            "pixel_values": torch.stack([item[0] for item in items]),
            "labels": [int(item[1]) for item in items],
        },
    )
    with_index = record(TensorDataset(images, labels, labels))
    assert column == mapping == with_index == expected


@pytest.mark.parametrize("samples", [None, 4])
@pytest.mark.parametrize("kind", ["one-hot", "fraction", "large", "texts", "none", "mapping"])
def test_the_monitor_refuses_bad_labels(batch, kind, samples):
    images, labels = batch
    bad: Any = {
        "one-hot": lambda items: torch.eye(3)[[int(item[1]) for item in items]],
        "fraction": lambda items: [float(item[1]) + 0.5 for item in items],
        "large": lambda items: [int(item[1]) + 1 for item in items],
        "texts": lambda items: ["cat" for _ in items],
        "none": lambda items: None,
    }

    def collate(items: Any) -> Any:
        pixels = torch.stack([item[0] for item in items])
        return {"x": pixels} if kind == "mapping" else (pixels, bad[kind](items))

    loader = DataLoader(TensorDataset(images, labels), 10, collate_fn=collate)
    with pytest.raises(PluginError, match="^monitor: "):
        CollapseMonitor(Small(), loader, samples_per_class=samples).step(0)


def test_training_refuses_labels_that_are_none(batch):
    images, labels = batch
    with pytest.raises(PluginError, match="training: label 0.5 at row 0 is no whole number"):
        train(Small, images, labels + 0.5, Recipe(epochs=1), seed=0)


def test_accuracy_compares_each_prediction_with_one_label(toy):
    """Arrays of shape (n,) and (n, 1) compare all with all: 20 for 100 here."""
    labels = toy.labels.numpy()
    assert metrics.accuracy(labels, labels) == 100
    with pytest.raises(PluginError, match=r"accuracy: predictions of shape \(200,\) and labels of shape \(200, 1\)"):
        metrics.accuracy(labels, labels[:, None])
    column = FeatureSplit.of(toy.train, toy.head.logits(toy.train), toy.labels[:, None])
    flat = FeatureSplit.of(toy.train, toy.head.logits(toy.train), toy.labels)
    assert nearest_centre(column, toy.statistics) == nearest_centre(flat, toy.statistics)
