"""Scores on every device that is there agree with the CPU's, and blocks are halved where its memory runs out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nci_plugin import config
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.evaluation.scoring import score_split, score_splits, scores_on
from nci_plugin.features.processes import ALONE
from nci_plugin.features.split import FeatureSplit
from nci_plugin.testing import CollapsedFeatures

THERE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def small(name: str) -> Detector:
    detector = config.load_detector(name).detector
    given = {key: value for key, value in {"k": 10, "K": 10, "d": 4}.items() if key in detector.hyperparameter_names()}
    return detector.set_hyperparameters(**given)


def split_of(toy: CollapsedFeatures, features: Tensor) -> FeatureSplit:
    return FeatureSplit.of(features, toy.head.logits(features), torch.zeros(len(features)).long())


@pytest.mark.device
@pytest.mark.parametrize("device", [device for device, is_there in THERE.items() if is_there])
@pytest.mark.parametrize("name", registry.names())
def test_a_device_gives_the_cpus_scores(name: str, device: str, toy: CollapsedFeatures) -> None:
    detector = small(name)
    toy.fit(detector)
    split = split_of(toy, torch.cat([toy.test, toy.far]))
    expected = score_split(detector, split)
    found = score_splits(detector, {"": split}, ALONE, torch.device(device))[""]
    assert found.dtype == expected.dtype
    assert (np.abs(found - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()
    assert detector.any_device


DECIDES = ("knn", "knn_l1", "ora")
"""Detectors that look at numbers on the way, which a fake tensor lacks."""


@pytest.mark.parametrize("name", [name for name in registry.names() if name not in DECIDES])
def test_nothing_that_was_learned_stays_on_another_device(name: str, toy: CollapsedFeatures) -> None:
    """Without a GPU: tensors that have a shape, a type and the device ``cuda``, beside which no other may take part."""
    detector = small(name)
    toy.fit(detector)
    with FakeTensorMode(allow_non_fake_inputs=True):
        features = torch.empty(7, toy.head.num_features, device="cuda")
        logits = torch.empty(7, toy.head.num_classes, device="cuda")
        scores = detector.score(features, logits)
    assert scores.device.type == "cuda"
    assert scores.shape == (7,)


def test_what_stays_on_another_device_is_noticed() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="device"):
        torch.empty(7, 3, device="cuda") - torch.ones(3)


class Small(Detector):
    """Has memory for so many rows."""

    name = "small"
    paper = Paper("", "", "", 0, "")
    rows = 3
    error: Exception = torch.cuda.OutOfMemoryError("out of memory")

    def __init__(self) -> None:
        self.seen: list[int] = []

    def hyperparameter_names(self) -> tuple[str, ...]:
        return ()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        if len(features) > self.rows:
            raise self.error
        self.seen.append(len(features))
        return logits.amax(dim=1)


ERRORS = [
    torch.cuda.OutOfMemoryError("out of memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=[f"{type(each).__name__} {number}" for number, each in enumerate(ERRORS)])
def test_blocks_are_halved_where_memory_runs_out(
    error: Exception, toy: CollapsedFeatures, caplog: pytest.LogCaptureFixture
) -> None:
    """From there on, with a line each time, and in order; another detector's blocks are whole again."""
    detector = Small()
    detector.error = error
    detector.fit(None, toy.head)
    features = toy.test[:20]
    split = FeatureSplit([*split_of(toy, features[:11]).shards, *split_of(toy, features[11:]).shards])
    with caplog.at_level(logging.WARNING):
        found = score_split(detector, split)
    assert np.array_equal(found, toy.head.logits(features).amax(dim=1).numpy())
    assert max(detector.seen) <= 3
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"detector 'small': the memory of cpu ran out, it goes on in blocks of {rows} rows" for rows in (5, 2)
    ]
    assert detector.seen == [2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1]


def test_a_row_that_is_too_large_is_an_error(toy: CollapsedFeatures) -> None:
    detector = Small()
    detector.rows = 0
    detector.fit(None, toy.head)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        score_split(detector, split_of(toy, toy.test[:5]))


def test_another_error_is_no_reason_to_halve(toy: CollapsedFeatures, caplog: pytest.LogCaptureFixture) -> None:
    detector = Small()
    detector.error = RuntimeError("shapes do not match")
    detector.fit(None, toy.head)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        score_split(detector, split_of(toy, toy.test[:5]))
    assert not caplog.records


def test_a_users_detector_stays_on_the_cpu(toy: CollapsedFeatures) -> None:
    """What it learned lies there, whatever device the network is on."""
    detector = Small()
    detector.fit(None, toy.head)
    assert not detector.any_device
    block = split_of(toy, toy.test[:2]).shards[0]
    assert scores_on(torch.device("meta"), detector, [block]).device.type == "cpu"
