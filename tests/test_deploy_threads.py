"""Threads of one process that ask detectors, `evaluate` and the network itself at the same time."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from served import CLASSES, network, rows
from torch import Tensor, nn

from nci_plugin import Benchmark, CollapseMonitor, OODDetector, PluginError, evaluate
from nci_plugin.features.forward import prepared

TEST = rows(12, 3).tensors[0]


class Slow(nn.Module):
    """A network that lets other threads go on in the middle of its pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.last = inner[:2], inner[2:]  # type: ignore[index]

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        time.sleep(0.002)
        return self.last(features)


def at_once(*tasks: Callable[[], Any], times: int = 5) -> list[list[Any]]:
    """What each task gives, or raises, in a thread of its own, so many times; all end within a minute."""
    found: list[list[Any]] = [[] for _ in tasks]

    def work(task: Callable[[], Any], into: list[Any]) -> None:
        for _ in range(times):
            try:
                into.append(task())
            except BaseException as error:
                into.append(error)

    pairs = zip(tasks, found)
    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


def slow(mode: bool = False) -> tuple[OODDetector, nn.Module]:
    model = Slow(network()).train(mode)
    return OODDetector("neco", progress=False).fit(model, rows(60, 1), rows(40, 2)), model


@pytest.mark.parametrize("training", [False, True])
def test_threads_get_the_scores_of_one_and_leave_the_network(training: bool) -> None:
    detector, model = slow(training)
    expected, before = detector.score(TEST), copy.deepcopy(model.state_dict())
    for answer in sum(at_once(*[lambda: detector.score(TEST)] * 3), []):
        assert torch.equal(answer, expected), answer
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training is training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:validation images. the network gives")
def test_networks_that_share_modules_wait_for_each_other() -> None:
    """A wrapper, and another head on the same trunk: their modes and hooks are those of one network."""
    detector, model = slow(training := True)
    replicas = nn.DataParallel(model).train(training)
    beside = nn.Sequential(model, nn.Linear(CLASSES, 3)).train(training)
    others = [OODDetector("msp", progress=False).fit(each, rows(60, 1), rows(40, 2)) for each in (replicas,)]
    # Learned on the same trunk, with labels that fit its three outputs.
    labels = [(image, int(label) % 3) for image, label in rows(60, 1)], [(i, int(k) % 3) for i, k in rows(40, 2)]
    others.append(OODDetector("msp", progress=False).fit(beside, *labels))
    asked = [detector, *others]
    expected = [each.score(TEST) for each in asked]
    found = at_once(*(lambda each=each: each.score(TEST) for each in asked))
    for answers, right in zip(found, expected):
        assert all(torch.equal(answer, right) for answer in answers), answers
    assert all(module.training for module in beside.modules())


def test_evaluate_module_and_the_monitor_wait_too() -> None:
    detector, model = slow(True)
    splits = {"train": rows(40, 1), "test": rows(20, 5), "val": rows(20, 2), "near": {"o": rows(20, 4, ood=True)}}
    benchmark = Benchmark.from_splits("b", CLASSES, **splits)
    monitor = CollapseMonitor(model, [rows(40, 1).tensors])

    def evaluated() -> Any:
        return evaluate(model, benchmark, ["msp"], device="cpu", progress=False).scores["msp"]["id/test"]

    def module() -> Tensor:
        return detector.module()(TEST)[1].detach()

    tasks = [lambda: detector.score(TEST), evaluated, module, lambda: str(monitor.step(0))]
    expected = [task() for task in tasks]
    for answers, right in zip(at_once(*tasks, times=3), expected):
        for answer in answers:
            assert np.array_equal(answer, right), answer
    assert not any(hooks for each in detector.module().modules() for hooks in each._forward_hooks)


def test_the_users_own_calls_are_no_part_of_a_pass() -> None:
    detector, model = slow()
    expected = detector.score(TEST)
    asked, own = at_once(lambda: detector.score(TEST), lambda: model(TEST[:5]))
    assert all(torch.equal(answer, expected) for answer in asked), asked
    assert all(isinstance(answer, Tensor) for answer in own)


def test_a_pass_in_a_pass_of_one_thread() -> None:
    """Images that come from a data set which asks a detector of the same network."""
    detector, model = slow(True)

    class Asks(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            detector.score(TEST[index][None])
            return TEST[index]

    with prepared(model):
        assert torch.equal(detector.score(Asks()), detector.score(TEST[:4]))
    assert all(module.training for module in model.modules())


def test_an_abandoned_pass_holds_nothing() -> None:
    detector, _ = slow()
    begun = detector._answers(TEST)
    detector.batch_size = 2
    next(begun)
    (answers,) = at_once(lambda: detector.score(TEST), times=1)
    assert isinstance(answers[0], Tensor)
    detector.score(TEST)
    with pytest.raises(PluginError):
        detector.score([*TEST[:3], torch.zeros(3, 9, 9)])
    assert isinstance(at_once(lambda: detector.score(TEST), times=1)[0][0], Tensor)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    detector, model = slow()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with prepared(model):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    entered.wait(60)
    child = os.fork()
    if not child:
        try:
            with prepared(model):
                os._exit(0)
        finally:
            os._exit(1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    leave.set()
    thread.join(60)
    assert done
    assert status == 0
