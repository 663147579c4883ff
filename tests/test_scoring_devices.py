"""Fits and scores on every device that is there agree with the CPU's, and go on where its memory runs out."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from second_device import CPU, DEVICE, SecondDevice
from torch import Tensor

from nci_plugin import config
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.evaluation.scoring import score_split, score_splits, scores_on
from nci_plugin.evaluation.search import fit
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.processes import ALONE
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead
from nci_plugin.testing import CollapsedFeatures

THERE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}

BANK = [name for name in registry.names() if registry.create(name).fits_on is FitsOn.BANK]
KEEP_THE_BANK = ("knn", "knn_l1")
"""Detectors that learn nothing from training features but keep them."""


def small(name: str) -> Detector:
    detector = config.load_detector(name).detector
    given = {key: value for key, value in {"k": 10, "K": 10, "d": 4}.items() if key in detector.hyperparameter_names()}
    return detector.set_hyperparameters(**given)


def fitted(name: str, toy: CollapsedFeatures, device: torch.device = CPU) -> Detector:
    return fit(small(name), replace(toy.bank, device=device))


def split_of(toy: CollapsedFeatures, features: Tensor) -> FeatureSplit:
    return FeatureSplit.of(features, toy.head.logits(features), torch.zeros(len(features)).long())


@pytest.mark.device
@pytest.mark.parametrize("device", [device for device, is_there in THERE.items() if is_there])
@pytest.mark.parametrize("name", registry.names())
def test_a_device_gives_the_cpus_scores(name: str, device: str, toy: CollapsedFeatures) -> None:
    detector = fitted(name, toy, torch.device(device))
    split = split_of(toy, torch.cat([toy.test, toy.far]))
    expected = score_split(fitted(name, toy), split)
    found = score_splits(detector, {"": split}, ALONE, torch.device(device))[""]
    assert found.dtype == expected.dtype
    assert (np.abs(found - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()
    assert detector.any_device


@pytest.mark.device
@pytest.mark.parametrize("device", [device for device, is_there in THERE.items() if is_there])
@pytest.mark.parametrize("name", BANK)
def test_a_device_learns_the_same_bits_every_time(name: str, device: str, toy: CollapsedFeatures) -> None:
    """As processes that fit for themselves must: sums over classes are made in a fixed order."""
    one, other = (vars(fitted(name, toy, torch.device(device))) for _ in range(2))
    assert all(torch.equal(value, other[key]) for key, value in one.items() if isinstance(value, Tensor))


@pytest.mark.parametrize("name", registry.names())
def test_nothing_that_was_learned_stays_on_another_device(name: str, toy: CollapsedFeatures) -> None:
    """Without a GPU: on a second device that has the CPU's numbers the scores are the CPU's, to the bit."""
    features = torch.cat([toy.test, toy.far])
    logits, detector = toy.head.logits(features), fitted(name, toy)
    with SecondDevice() as device:
        scores = detector.score(features.to(DEVICE), logits.to(DEVICE))
        assert scores.device == DEVICE
        assert torch.equal(scores.cpu(), fitted(name, toy).score(features, logits))
    assert device.ran


def test_blocks_for_a_cpus_cache_are_for_a_cpu(toy: CollapsedFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fitted("nci", toy)
    features, logits, seen = toy.test[:6], toy.head.logits(toy.test[:6]), []
    score = type(detector)._score
    monkeypatch.setattr(type(detector), "_score", lambda self, *rows: seen.append(len(rows[0])) or score(self, *rows))
    monkeypatch.setattr(type(detector), "block_bytes", 2 * 8 * (features.shape[1] + logits.shape[1]))
    detector.score(features, logits)
    with SecondDevice():
        detector.score(features.to(DEVICE), logits.to(DEVICE))
    assert seen == [2, 2, 2, 6]


@pytest.mark.parametrize("name", ["nci", "vim", "mds_radial"])
def test_what_was_learned_is_brought_to_the_device_once(name: str, toy: CollapsedFeatures) -> None:
    detector = fitted(name, toy)
    blocks = split_of(toy, toy.test[:12]).shards[0]
    brought = []
    for rows in (12, 3):
        with SecondDevice() as device:
            scores_on(DEVICE, detector, [blocks.rows(start, start + rows) for start in range(0, 12, rows)])
        brought.append(device.brought)
    assert brought[1] - brought[0] == 3 * len(["features", "logits"])


@pytest.mark.parametrize("name", BANK)
def test_training_features_are_learned_from_on_the_device(name: str, toy: CollapsedFeatures) -> None:
    """As above; what was learned lies on the CPU afterwards, and the training features where they did."""
    expected = fitted(name, toy)
    with SecondDevice() as device:
        detector = fitted(name, toy, DEVICE)
    assert device.ran or name in KEEP_THE_BANK
    for attribute, value in vars(detector).items():
        of_cpu = getattr(expected, attribute)
        if isinstance(value, Tensor):
            assert type(value) is Tensor
            assert torch.equal(value, of_cpu)
        elif isinstance(value, FeatureSplit):
            assert value.device is None
            assert torch.equal(value.features, of_cpu.features)
        else:
            assert value == of_cpu


@pytest.mark.parametrize("name", sorted({*registry.names()} - {*BANK}))
def test_what_fits_on_statistics_fits_on_the_cpu(name: str, toy: CollapsedFeatures) -> None:
    with SecondDevice() as device:
        fitted(name, toy, DEVICE)
    assert not device.ran


def test_what_stays_on_another_device_is_noticed() -> None:
    with SecondDevice(), pytest.raises(RuntimeError, match="two devices"):
        torch.ones(7, 3).to(DEVICE) - torch.ones(3)


def test_mps_has_no_float64() -> None:
    detector = small("vim")
    assert detector.runs_on(DEVICE) == DEVICE
    assert detector.runs_on(torch.device("mps")) == torch.device("cpu")


class Large(Detector):
    """Fits where there is memory for it, which is on the CPU."""

    name = "large"
    paper = Paper("", "", "", 0, "")
    fits_on = FitsOn.BANK
    any_device = True
    text = "out of memory"

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.mean_ = torch.cat([chunk.features for chunk in training.chunks()]).mean(dim=0)
        if self.mean_.device == DEVICE:
            raise RuntimeError(self.text)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return logits.amax(dim=1)


def test_a_fit_for_which_memory_runs_out_is_made_on_the_cpu(
    toy: CollapsedFeatures, caplog: pytest.LogCaptureFixture
) -> None:
    bank = replace(toy.bank, device=DEVICE)
    with SecondDevice(), caplog.at_level(logging.WARNING):
        detector = fit(Large(), bank)
        assert torch.equal(vars(detector)["mean_"], toy.train.mean(dim=0))
        broken = Large()
        broken.text = "shapes do not match"
        with pytest.raises(RuntimeError, match="do not match"):
            fit(broken, bank)
    (record,) = caplog.records
    assert record.getMessage() == "detector 'large': the memory of lazy:0 ran out, it fits on the CPU"


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


@pytest.mark.parametrize("error", ERRORS, ids=[f"{type(each).__name__} {number}" for number, each in enumerate(ERRORS)])
@pytest.mark.parametrize("asked", ["fdbd", "klmatching"])
def test_blocks_of_pytorch_ood_are_halved_too(asked: str, error: Exception, toy: CollapsedFeatures) -> None:
    detector = fit(config.load_detector(f"pytorch_ood:{asked}").detector, toy.bank)
    split = split_of(toy, toy.test[:20])
    expected = score_split(detector, split)
    library = vars(detector)["detector_"]
    ask = "predict_logits" if asked == "klmatching" else "predict_features"
    original = getattr(library, ask)

    def limited(rows: Tensor) -> Tensor:
        if len(rows) > 6:
            raise error
        return original(rows)

    setattr(library, ask, limited)
    assert np.allclose(score_split(detector, split), expected, rtol=1e-5, atol=1e-6)


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
