"""README's Python is run as it stands, and its recipe for a detector is followed in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nci_plugin

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPE = "### Add a detector"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def recipe() -> str:
    """The section that says how a detector is added."""
    start = README.index(RECIPE) + len(RECIPE)
    return README[start : README.index("\n## ", start)]


SNIPPETS = [code for code in blocks("python") if "openood" not in code and code not in blocks("python", recipe())]
"""All but the one that needs OpenOOD, which tests/openood runs, and the recipe's."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU())
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What a reader has: a network, its data sets, and a training loop."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().eval()

    def dataset(labels: torch.Tensor) -> TensorDataset:
        return TensorDataset(torch.rand(len(labels), 3, 2, 2, generator=generator), labels)

    labels, outside = torch.arange(40) % 10, torch.full((20,), -1)
    with torch.no_grad():
        test_features = net.body(torch.rand(40, 3, 2, 2, generator=generator))
    train = dataset(labels)
    return {
        "nci_plugin": nci_plugin,
        "net": net,
        "train_dataset": train,
        "val_dataset": dataset(labels),
        "test_features": test_features,
        "test_labels": labels,
        "ood_val_dataset": dataset(outside),
        "ood_dataset": dataset(outside),
        "noise_dataset": dataset(outside),
        "loader": DataLoader(train, 20),
        "epoch": 0,
    }


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 2
    assert len(blocks("python", recipe())) == 2


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number: int, names: dict[str, object]) -> None:
    exec(compile(SNIPPETS[number], f"README, snippet {number}", "exec"), names)
    if "evaluation" in names:
        evaluation = names["evaluation"]
        assert not evaluation.failures
        assert {result.detector for result in evaluation.results} == {"nci", "pscore", "msp"}


def test_adding_a_detector(tmp_path: Path) -> None:
    """Two new files and a function: then it is listed, scored and held to the contract."""
    for directory in ("nci_plugin", "configs", "tests"):
        shutil.copytree(ROOT / directory, tmp_path / directory, ignore=shutil.ignore_patterns("__pycache__", "openood"))
    shutil.copytree(ROOT / "nci_plugin" / "adapters" / "openood", tmp_path / "nci_plugin" / "adapters" / "openood")
    for file in ("setup.cfg", "README.md"):
        shutil.copyfile(ROOT / file, tmp_path / file)
    code, twin = blocks("python", recipe())
    (config,) = blocks("yaml", recipe())
    (name,) = re.findall(r'^    name = "(\w+)"$', code, re.MULTILINE)
    (tmp_path / "nci_plugin" / "detectors" / "a_file_of_any_name.py").write_text(code, encoding="utf-8")
    (tmp_path / "configs" / "postprocessors" / f"{name}.yml").write_text(config, encoding="utf-8")
    with (tmp_path / "tests" / "twins.py").open("a", encoding="utf-8") as twins:
        twins.write(f"\n\n{twin}")

    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert re.search(rf"^ *{name}\b.*Author", python("-m", "nci_plugin", "list"), re.MULTILINE)
    contract = ["tests/test_detector_contract.py", "tests/test_degenerate.py"]
    out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *contract, "-k", name)
    assert int(re.search(r"(\d+) passed", out).group(1)) > 30
