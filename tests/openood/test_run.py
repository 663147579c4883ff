"""``nci-ood run``: OpenOOD's own scripts, unmodified, in a checkout whose code is linked and whose data is small."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cifar import BENCHMARK, RUN, Checkout, network
from openood.evaluation_api import postprocessor as evaluation_api
from openood.networks import ResNet50
from tiny import tree

from nci_plugin.adapters.openood.checkout import is_checkout
from nci_plugin.cli.main import main

EVAL = "scripts/eval_ood.py"
PATCHED = {
    "torch.Tensor.cuda": lambda: torch.Tensor.cuda,
    "torch.Tensor.to": lambda: torch.Tensor.to,
    "torch.load": lambda: torch.load,
    "torch.cuda.FloatTensor": lambda: torch.cuda.FloatTensor,
    "pickle.load": lambda: pickle.load,
    "sys.argv": lambda: sys.argv,
    "sys.stdout": lambda: sys.stdout,
    "__main__": lambda: sys.modules["__main__"],
}

pytestmark = pytest.mark.usefixtures("one_thread", "script_host")


@pytest.fixture(autouse=True)
def nothing_stays_patched() -> Iterator[None]:
    before = {name: get() for name, get in PATCHED.items()}
    path = [*sys.path]
    yield
    assert [name for name, get in PATCHED.items() if get() is not before[name]] == []
    assert [entry for entry in sys.path if entry not in path and not is_checkout(Path(entry))] == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("run") / "OpenOOD", seeds=2)


@pytest.fixture
def inside(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.chdir(checkout.root)
    return checkout


def run(script: str, *arguments: str, options: tuple[str, ...] = ()) -> int:
    return main(["run", "--device", "cpu", *options, script, *arguments])


def eval_ood(name: str, *arguments: str, options: tuple[str, ...] = ()) -> int:
    return run(EVAL, "--root", f"results/{RUN}", "--postprocessor", name, *arguments, options=options)


def pickles(checkout: Checkout, name: str) -> list[Path]:
    return sorted(checkout.runs.glob(f"s*/*/{name}.pkl"))


@pytest.mark.parametrize("name", ["nci", "neco"])
def test_eval_ood_writes_what_eval_writes(name: str, inside: Checkout, tmp_path: Path) -> None:
    assert eval_ood(name, "--id-data", BENCHMARK, "--save-csv") == 0
    assert eval_ood(name, "--save-csv", "--fsood", options=("--fresh",)) == 0
    arguments = ["eval", BENCHMARK, "--detectors", name, "--root", f"results/{RUN}", "--device", "cpu"]
    assert main([*arguments, "--workers", "0", "--output", str(tmp_path / "out")]) == 0
    for setting in ("ood", "fsood"):
        theirs, ours = inside.runs / setting / f"{name}.csv", tmp_path / "out" / setting / f"{name}.csv"
        assert ours.read_text() == theirs.read_text()
        table = pd.read_csv(theirs, index_col=0)
        assert list(table.index)[:3] == ["cifar100", "tin", "nearood"]
        assert float(table.loc["nearood", "ACC"].split()[0]) > 20


def test_pickles_are_refused_moved_aside_or_trusted(inside: Checkout, capsys: Any) -> None:
    assert eval_ood("pscore", "--save-score") == 0
    there = pickles(inside, "pscore")
    assert len(there) == 4  # postprocessors and scores of two seeds
    before = tree(inside.runs)
    capsys.readouterr()

    assert eval_ood("pscore") == 2
    captured = capsys.readouterr()
    assert all(str(path.relative_to(inside.root)) in captured.out for path in there)
    (line,) = captured.err.splitlines()
    assert "--fresh" in line
    assert "--trust-pickles" in line
    assert tree(inside.runs) == before

    assert eval_ood("pscore", options=("--trust-pickles",)) == 0
    captured = capsys.readouterr()
    assert captured.out.count("Loaded pre-computed scores") == 2
    assert "inference" not in captured.out.replace("Inference has been performed", "")
    assert tree(inside.runs) == before

    for number in ("", "2"):
        assert eval_ood("pscore", "--save-score", options=("--fresh",)) == 0
        out = capsys.readouterr().out
        assert "Loaded pre-computed" not in out
        for path in there:
            assert f"moved aside: {path.relative_to(inside.root)} -> {path.name}.old{number}" in out
            assert path.with_name(f"{path.name}.old").read_bytes() == before[str(path.relative_to(inside.runs))]


def test_a_pickle_of_an_unknown_script(inside: Checkout, tmp_path: Path, capsys: Any) -> None:
    """The safety net: the code in the file must not run."""
    trap, content = tmp_path / "trap", tmp_path / "content.pkl"
    content.write_bytes(pickle.dumps(Trap(str(trap))))
    script = tmp_path / "script.py"
    script.write_text(f"import pickle\nprint('first')\nwith open({str(content)!r}, 'rb') as f:\n    pickle.load(f)\n")
    assert run(str(script)) == 2
    captured = capsys.readouterr()
    assert captured.out.strip() == "first"
    (line,) = captured.err.splitlines()
    assert str(content) in line
    assert not trap.exists()
    assert run(str(script), options=("--trust-pickles",)) == 0
    assert trap.exists()


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_main_pipeline(inside: Checkout, capsys: Any) -> None:
    """OpenOOD's other way in, with a YAML that its checkout does not have."""
    configs = [
        "configs/datasets/cifar10/cifar10.yml",
        "configs/datasets/cifar10/cifar10_ood.yml",
        "configs/networks/resnet18_32x32.yml",
        "configs/pipelines/test/test_ood.yml",
        "configs/preprocessors/base_preprocessor.yml",
        "configs/postprocessors/feature_norm.yml",
    ]
    checkpoint = ["--network.checkpoint", f"results/{RUN}/s0/best.ckpt", "--num_workers", "0", "--mark", "here"]
    assert run("main.py", "--config", *configs, *checkpoint) == 0
    out = capsys.readouterr().out
    assert "config: configs/postprocessors/feature_norm.yml is not there, using" in out
    assert "Completed!" in out
    (output,) = (inside.root / "results").glob("*feature_norm_here/s0/ood")
    with np.load(output / "scores" / "tin.npz") as scores:
        conf = scores["conf"]
    assert (conf > 0).all()
    assert len(np.unique(conf)) == len(conf)
    assert (output / "ood.csv").is_file()


def test_main_pipeline_changes_a_hyperparameter(inside: Checkout, capsys: Any) -> None:
    names = ("datasets/cifar10/cifar10", "datasets/cifar10/cifar10_ood", "networks/resnet18_32x32")
    names += ("pipelines/test/test_ood", "preprocessors/base_preprocessor", "postprocessors/neco")
    arguments = ["--config", *(f"configs/{name}.yml" for name in names)]
    arguments += ["--network.checkpoint", f"results/{RUN}/s0/best.ckpt", "--postprocessor.postprocessor_args.dim"]
    assert run("main.py", *arguments, "3", "--mark", "a") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must be a whole number >= 1, or a share" in line  # 3.0, since the file's own value is 0.9
    assert run("main.py", *arguments, "0.5", "--mark", "b") == 0


def test_eval_ood_imagenet(inside: Checkout, capsys: Any, tmp_path: Path) -> None:
    """Its first lines: the checkpoint's directory is where it looks for pickles."""
    checkpoint = tmp_path / "resnet50.pth"
    torch.save(ResNet50().state_dict(), checkpoint)
    found = tmp_path / "postprocessors" / "neco.pkl"
    found.parent.mkdir()
    found.write_bytes(pickle.dumps(Trap(str(tmp_path / "trap"))))
    arguments = ["scripts/eval_ood_imagenet.py", "--ckpt-path", str(checkpoint), "--postprocessor", "neco"]
    assert run(*arguments) == 2
    assert f"'{found}'" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="download"):  # there is no ImageNet here
        run(*arguments, options=("--fresh",))
    assert not found.exists()
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no luck')", 1, "no luck\n"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("from nci_plugin.config import load_benchmark as load; load('cifar11')", 2, "did you mean 'cifar10'?"),
        ("import sys; assert sys.argv[1:] == ['--fresh', '-h'] and __name__ == '__main__'", 0, ""),
        ("import sys, os; assert sys.path[0] == os.path.dirname(os.path.abspath(__file__))", 0, ""),
        ("import neighbour", 0, ""),
        ("import torch; assert torch.zeros(1).cuda().device.type == 'cpu'", 0, ""),
        ("from openood.evaluation_api.postprocessor import postprocessors; postprocessors['neco']", 0, ""),
        ("import sys; sys.stdout.close()", 0, ""),
    ],
)
def test_a_script_runs_as_python_runs_it(
    body: str, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "neighbour.py").write_text("", encoding="utf-8")
    (tmp_path / "script.py").write_text(f"{body}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("script.py", "--fresh", "-h") == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert bool(message) == bool(captured.err)
    assert "Traceback" not in captured.err


def test_an_exception_is_the_scripts_matter(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("{}['key']\n", encoding="utf-8")
    with pytest.raises(KeyError, match="key"):
        run(str(tmp_path / "script.py"))


def test_scripts_are_found_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(EVAL, "--help") == 0
    assert "--wrapper-net" in capsys.readouterr().out
    assert run("scripts/no_such.py") == 2
    assert "there is no such file in the working directory or in" in capsys.readouterr().err


def test_a_script_of_another_checkout(tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "openood" / "evaluation_api" / "evaluator.py"
    other.parent.mkdir(parents=True)
    other.touch()
    (tmp_path / "main.py").touch()
    assert run(str(tmp_path / "main.py")) == 2
    assert "belongs to another checkout" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit_is_the_scripts_matter(inside: Checkout, tmp_path: Path) -> None:
    path = tmp_path / "s0" / "best.ckpt"
    path.parent.mkdir()
    state = network(0).state_dict()
    del state["fc.bias"]
    torch.save(state, path)
    with pytest.raises(RuntimeError, match="fc.bias"):
        run(EVAL, "--root", str(tmp_path), "--postprocessor", "neco")


def test_the_plugins_nci_is_used(inside: Checkout) -> None:
    assert evaluation_api.postprocessors["nci"].__module__.startswith("nci_plugin.")
