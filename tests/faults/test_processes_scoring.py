"""Many processes, one set of scores: the bits of one process, and a death that costs at most the detector at work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Child, Whole, crew
from tiny import Tiny, draw_nothing, tree

from nci_plugin import api
from nci_plugin.api import evaluate
from nci_plugin.detectors import registry
from nci_plugin.evaluation.finished import FILE, Finished
from nci_plugin.evaluation.scoring import check_same_fit, score_split
from nci_plugin.features import processes
from nci_plugin.features.processes import Processes, joined
from nci_plugin.features.split import FeatureSplit
from nci_plugin.testing import CollapsedFeatures

pytestmark = pytest.mark.usefixtures("one_thread")

# Counts what it is asked; a file "die" of "rank calls" kills that process in its so manyth block.
DETECTORS = """
import os
import signal
from pathlib import Path

import torch

from nci_plugin import Detector
from nci_plugin.detectors.base import Paper

HERE, RANK = Path(__file__).parent, os.environ.get("RANK", "0")


class Watched(Detector):
    paper = Paper("", "", "", 0, "")

    def _score(self, features, logits):
        calls = HERE / f"calls-{self.name}-{RANK}"
        with calls.open("a") as file:
            file.write(".")
        die = HERE / "die"
        if self.name == "second" and die.exists():
            rank, after = die.read_text().split()
            if RANK == rank and len(calls.read_text()) > int(after):
                os.kill(os.getpid(), signal.SIGKILL)
        return logits.amax(dim=1)


class First(Watched):
    name = "first"


class Second(Watched):
    name = "second"


class Random(Watched):
    name = "random"

    def _fit(self, training, head, validation):
        self.shift_ = torch.rand(1, generator=torch.Generator().manual_seed(int(RANK)))

    def _score(self, features, logits):
        return logits.amax(dim=1) + self.shift_


class Fails(Watched):
    name = "fails"

    def _score(self, features, logits):
        if RANK == "1":
            raise MemoryError("no memory in process 1")
        return logits.amax(dim=1)
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    (tmp_path / "watched.py").write_text(DETECTORS)
    return Tiny(tmp_path)


def watched(tiny: Tiny, *classes: str) -> list[str]:
    return [f"{tiny.root / 'watched.py'}:{name}" for name in classes]


def calls(tiny: Tiny, name: str) -> int:
    """How many blocks a detector scored, in all processes; they are counted anew."""
    found = list(tiny.root.glob(f"calls-{name}-*"))
    count = sum(len(path.read_text()) for path in found)
    for path in found:
        path.unlink()
    return count


def test_one_process_and_four(tiny: Tiny) -> None:
    """Every detector of this package that can be used here, and some of pytorch-ood, on the same features: equal bits.

    Statistics of four processes are merged in another order, so these are stored before.
    """
    names = [name for name in registry.names() if name not in FAIL]
    whole = Whole(tiny, [*names, "knn3.yml", "pytorch_ood:rmd", "pytorch_ood:klmatching"])
    out = tiny.root / "out"
    out.mkdir()
    shutil.copytree(tiny.root / "whole" / "features", out / "features")
    children = crew(whole.arguments("out"), 4)
    assert [child.wait() for child in children] == [0] * 4, children[0].text
    assert tree(out / "scores") == tree(tiny.root / "whole" / "scores")
    assert tree(out / "ood") == tree(tiny.root / "whole" / "ood")
    assert len(tree(out / "scores")) > 28


FAIL = ("knn", "knn_l1", "rmds_pp", "nnguide")
"""Detectors that need more images than there are."""


@pytest.mark.parametrize("rank", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_process_that_dies_while_it_scores(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """It is named; the same command goes on at the detector that was at work."""
    monkeypatch.setattr(processes, "TIMEOUT", 3.0)
    monkeypatch.setattr(processes, "LINGER_SECONDS", 1.0)
    whole = Whole(tiny, ["msp", "nci", *watched(tiny, "First", "Second")])
    in_first = calls(tiny, "first")
    calls(tiny, "second")
    (tiny.root / "die").write_text(f"{rank} 2")
    children = crew(whole.arguments("out"), 3)
    codes = [child.wait() for child in children]
    assert codes[rank] == -signal.SIGKILL
    for other in set(range(3)) - {rank}:
        assert codes[other] == 2, children[other].text
        named = f"process {rank} of 3 (died|stopped)"
        assert re.search(rf"nci-ood: error: .*{named}.*run the same command to go on", children[other].text)
        assert "not scored" not in children[other].text
    assert calls(tiny, "first") == in_first + 3, "each block once, and the rows on which they are compared"
    rows = [json.loads(line)["detector"] for line in (tiny.root / "out" / "results.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(rows)) == ["msp", "nci", "first"]
    calls(tiny, "second")
    (tiny.root / "die").unlink()
    again = crew(whole.arguments("out"), 2)
    assert [child.wait() for child in again] == [0, 0], again[0].text
    assert "finished by the run that was interrupted: msp, nci, first" in again[0].text
    assert calls(tiny, "first") == 0
    assert calls(tiny, "second") > 0
    for part in ("scores", "ood", "fsood"):
        assert tree(tiny.root / "out" / part) == tree(tiny.root / "whole" / part)
    assert not list((tiny.root / "out").rglob(FILE))


def test_what_was_finished_counts_only_for_the_same_code(tiny: Tiny) -> None:
    arguments = tiny.eval(*watched(tiny, "First", "Second"), output=tiny.root / "out")
    (tiny.root / "die").write_text("0 2")
    assert Child(arguments).wait() == -signal.SIGKILL
    assert calls(tiny, "first") > 0
    (tiny.root / "die").unlink()
    (tiny.root / "watched.py").write_text(DETECTORS.replace("logits.amax(dim=1)\n", "2 * logits.amax(dim=1)\n"))
    again = Child(arguments)
    assert again.wait() == 0, again.text
    assert calls(tiny, "first") > 0
    assert "interrupted" not in again.text


def test_what_was_finished_counts_only_for_the_same_modules_beside_the_code(tiny: Tiny) -> None:
    """A detector's file may import another of the user's, whose change moves its scores."""
    (tiny.root / "factor_of_scores.py").write_text("FACTOR = 1\n")
    imports = f"import sys\nsys.path.insert(0, {str(tiny.root)!r})\nfrom factor_of_scores import FACTOR\n"
    scaled = DETECTORS.replace("logits.amax(dim=1)\n", "FACTOR * logits.amax(dim=1)\n", 1)
    (tiny.root / "watched.py").write_text(imports + scaled)
    arguments = tiny.eval("msp", *watched(tiny, "First", "Second"), output=tiny.root / "out")

    def killed_in_second() -> str:
        (tiny.root / "die").write_text("0 2")
        calls(tiny, "second")
        child = Child(arguments)
        assert child.wait() == -signal.SIGKILL
        return child.text

    killed_in_second()
    assert calls(tiny, "first") > 0
    assert "finished by the run that was interrupted: msp, first\n" in killed_in_second()
    assert calls(tiny, "first") == 0
    (tiny.root / "factor_of_scores.py").write_text("FACTOR = 2.5\n")
    assert "finished by the run that was interrupted: msp\n" in killed_in_second()
    assert calls(tiny, "first") > 0


def test_a_finished_run_is_evaluated_again(tiny: Tiny) -> None:
    arguments = tiny.eval(*watched(tiny, "First"), output=tiny.root / "out")
    assert Child(arguments).wait() == 0
    assert calls(tiny, "first") > 0
    assert Child(arguments).wait() == 0
    assert calls(tiny, "first") > 0


def test_an_error_of_one_process_is_one_of_the_detector(tiny: Tiny) -> None:
    names = [*watched(tiny, "Fails", "Random"), "msp"]
    children = crew(tiny.eval(*names, output=tiny.root / "out"), 3)
    assert [child.wait() for child in children] == [1, 0, 0]
    assert "not scored: fails: RuntimeError: process 1: MemoryError: no memory in process 1" in children[0].text
    assert "not scored: random: detector 'random': process 1 fitted it otherwise than process 0" in children[0].text
    assert list((tiny.root / "out" / "scores").glob("msp*"))


def test_scores_of_two_detectors_are_never_put_together(tiny: Tiny) -> None:
    """An error that one process alone has, between two blocks of work, leaves it at another detector than the rest."""
    toy = CollapsedFeatures()
    split = FeatureSplit([*toy.split(toy.test).chunks(50)])

    def child() -> None:
        with joined() as here:
            detector = registry.create("msp" if here.rank == 1 else "mls").fit(None, toy.head)
            for work in (score_split, check_same_fit):
                with pytest.raises(RuntimeError, match="did not score m.* with this one; run the same command again"):
                    work(detector, split, here, torch.device("cpu"))

    children = crew(["list"], 2, before=child)
    assert [each.wait() for each in children] == [0, 0], children[0].text + children[1].text


@pytest.mark.parametrize("damage", ["5", "[" * 2**20, '{"first": 1'])
def test_a_damaged_list_of_what_was_finished(tiny: Tiny, damage: str) -> None:
    (tiny.root / "die").write_text("0 2")
    arguments = tiny.eval(*watched(tiny, "First", "Second"), output=tiny.root / "out")
    assert Child(arguments).wait() == -signal.SIGKILL
    (found,) = (tiny.root / "out").rglob(FILE)
    found.write_text(damage)
    (tiny.root / "die").unlink()
    calls(tiny, "first")
    again = Child(arguments)
    assert again.wait() == 0, again.text
    assert calls(tiny, "first") > 0


def test_damaged_scores_of_a_finished_detector(tiny: Tiny) -> None:
    """As a power cut leaves them: they are made again."""
    (tiny.root / "die").write_text("0 2")
    arguments = tiny.eval("msp", *watched(tiny, "First", "Second"), output=tiny.root / "out")
    assert Child(arguments).wait() == -signal.SIGKILL
    (scores,) = (tiny.root / "out").rglob("first*.npz")
    scores.write_bytes(scores.read_bytes()[:100])
    (tiny.root / "die").unlink()
    calls(tiny, "first")
    again = Child(arguments)
    assert again.wait() == 0, again.text
    assert "finished by the run that was interrupted: msp\n" in again.text
    assert calls(tiny, "first") > 0


def test_what_another_run_may_have_written_again_is_not_finished(tiny: Tiny) -> None:
    """Killed between the rows of a detector with other values and the note about them: the first run's note is gone."""
    config, out = tiny.root / "mine.yml", tiny.root / "out"

    def run(alpha: float) -> str:
        config.write_text(f"postprocessor: {{name: mine, detector: nci, postprocessor_args: {{alpha: {alpha}}}}}\n")
        child = Child(tiny.eval(str(config), *watched(tiny, "Second"), output=out))
        child.wait()
        return child.text

    (tiny.root / "die").write_text("0 2")
    run(0.1)
    noted = json.loads(next(out.rglob(FILE)).read_text())
    assert list(noted) == ["mine"]
    calls(tiny, "second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finished, "add", lambda self, setup: os.kill(os.getpid(), signal.SIGKILL))
        run(0.2)
    assert '"alpha": 0.2' in (out / "results.jsonl").read_text()
    calls(tiny, "second")
    (tiny.root / "die").unlink()
    assert "interrupted" not in run(0.1)
    assert '"alpha": 0.2' not in (out / "results.jsonl").read_text()


def test_all_processes_leave_out_the_same(tiny: Tiny) -> None:
    """What is free changes from one moment to the next, and so from process to process; the least of it decides."""
    setups = api.resolve_detectors("all")

    def child() -> None:
        with joined() as here, pytest.MonkeyPatch.context() as patch:
            patch.setattr(api, "free_memory", lambda: 10**9 if here.rank == 1 else 10**12)
            left_out = api.affordable(setups, "all", 100, here)[1]
            (tiny.root / f"left-{here.rank}").write_text("\n".join(left_out.values()))

    children = crew(["list"], 3, before=child)
    assert [each.wait() for each in children] == [0] * 3, children[0].text
    texts = {(tiny.root / f"left-{rank}").read_text() for rank in range(3)}
    assert texts == {"takes about 2.2 GB for 100 classes, 0.9 GB are free"}


def test_without_a_directory(tiny: Tiny) -> None:
    """Statistics are merged and features sent by a collective: the scores of one process."""
    torch.save(_scores(tiny), tiny.root / "alone.pt")

    def child() -> None:
        with joined() as here:
            scores = _scores(tiny, processes=here)
            if here.is_first:
                torch.save(scores, tiny.root / "many.pt")

    children = crew(["list"], 3, before=child)
    assert [each.wait() for each in children] == [0] * 3, children[0].text
    alone, many = (torch.load(tiny.root / f"{name}.pt") for name in ("alone", "many"))
    assert list(alone) == list(many)
    for name, expected in alone.items():
        assert torch.allclose(many[name], expected, rtol=1e-6, atol=1e-6), name


def _scores(tiny: Tiny, **options: object) -> dict[str, torch.Tensor]:
    benchmark, names = tiny.yaml, ["msp", "nci", "mds_pp", str(tiny.root / "knn3.yml")]
    (tiny.root / "knn3.yml").write_text("postprocessor: {name: knn, postprocessor_args: {K: 3}}\n")
    settings = {"data_root": tiny.data, "device": "cpu", "batch_size": 4, "progress": False, **options}
    scores = evaluate(tiny.loaded(), benchmark, names, **settings).scores  # type: ignore[arg-type]
    return {f"{name} {split}": torch.from_numpy(of[split]) for name, of in scores.items() for split in of}


def test_what_was_gathered_last_outlives_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of the group that had the last reference waited for Python, which waited for that thread."""
    given: list[Any] = []
    alive: list[bool] = []

    def all_gather(answers: list[torch.Tensor], mine: torch.Tensor, group: object) -> None:
        answers[0].copy_(mine)
        given.extend(map(weakref.ref, [*answers, mine]))

    alone = Processes()
    alone._group = object()
    monkeypatch.setattr(alone, "wait", lambda: None)
    monkeypatch.setattr(processes.distributed, "all_gather", all_gather)
    monkeypatch.setattr(processes.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        processes.distributed, "destroy_process_group", lambda group: alive.extend(each() is not None for each in given)
    )
    assert alone._gather(b"some") == [b"some"]
    alone._leave()
    assert alive == 4 * [True]
    assert not alone._sent
