"""OpenOOD's methods through this package's command and function, beside its own detectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny

from nci_plugin import evaluate
from nci_plugin.adapters.openood import methods
from nci_plugin.benchmarks.benchmark import TEST, TRAIN
from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


def rows(tiny: Tiny) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tiny.output / "results.jsonl").read_text().splitlines()]


def test_all_methods_from_one_pass(tiny: Tiny, capsys: Any) -> None:
    code = main(tiny.eval("nci", "openood:nci", "openood:all", batch_size=12))
    out = capsys.readouterr().out
    assert code == 1  # 12 training images are too few for some, which are named
    scored = {row["detector"] for row in rows(tiny)}
    failed = {name for name in methods.names() if f"\nnot scored: {name}: " in out}
    assert scored | failed == {"nci", *methods.names()}
    assert {"openood:msp", "openood:nci", "openood:react", "openood:mds"} <= scored
    assert (tiny.output / "ood" / "openood_react.csv").is_file()
    own, openoods = ([row for row in rows(tiny) if row["detector"] == name] for name in ("nci", "openood:nci"))
    assert [row["auroc"] for row in own] == pytest.approx([row["auroc"] for row in openoods])
    assert own[0]["hyperparameters"] == openoods[0]["hyperparameters"]
    images = sum(map(len, (list(open_lines(tiny)))))
    assert sum(tiny.passes()) < 1.5 * images  # the first batch is looked at more than once


def open_lines(tiny: Tiny) -> list[list[str]]:
    return [path.read_text().splitlines() for path in (tiny.data / "benchmark_imglist" / "tiny").glob("*.txt")]


def test_a_method_that_needs_no_training_images_does_not_pass_them(tiny: Tiny) -> None:
    assert main(tiny.eval("openood:msp", "openood:gen")) == 0
    counts = [len(lines) for lines in open_lines(tiny)]
    assert sum(tiny.passes()) <= sum(counts) - 12 + 2 * 4  # two looks at the first batch of four


def test_a_method_on_images_passes_them_again(tiny: Tiny) -> None:
    benchmark = load_benchmark(str(tiny.yaml))
    network = tiny.loaded()
    evaluation = evaluate(network, benchmark, ["openood:msp", "openood:odin"], data_root=tiny.data, device="cpu")
    assert evaluation.failures == {}
    assert set(evaluation.scores["openood:odin"]) == set(evaluation.scores["openood:msp"])
    assert len(evaluation.scores["openood:odin"][TEST]) == 8
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training  # as it was
    assert TRAIN not in evaluation.scores["openood:odin"]


def test_a_method_on_images_needs_images(golden: Any) -> None:
    evaluation = evaluate(golden.head, golden.benchmark(), ["openood:odin", "openood:msp"])
    assert evaluation.failures == {"openood:odin": "it needs the images, and this benchmark has features only"}
    assert set(evaluation.scores) == {"openood:msp"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openood:knm", "unknown detector 'openood:knm'.*openood:knn"),
        ("openood:cider", "cannot be used here, it needs a network trained with"),
        ("openood:grood", "cannot be used here, it fails in OpenOOD"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        methods.load(name)


def test_the_list(capsys: Any) -> None:
    assert main(["list", "--openood"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  openood:")]
    assert [line.split()[0] for line in lines] == [f"openood:{name}" for name in methods.METHODS]
    assert any(line.endswith("replayed on stored features of the training split too") for line in lines)


def test_nothing_is_left_in_the_random_state(golden: Any) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    evaluate(golden.head, golden.benchmark(), ["openood:cfood"])
    assert torch.rand(3).equal(expected)
