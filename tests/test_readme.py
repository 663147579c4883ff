"""The Python of README and of docs/ is run as it stands, and the recipe for a detector is followed in a copy.

Code cells of the tutorials are not among it: they run when the documentation is built.
"""

from __future__ import annotations

import ast
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

ROOT = Path(__file__).resolve().parent.parent
BUILT = {ROOT / "docs" / "_build", ROOT / "docs" / "reference" / "generated"}
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if not BUILT & set(path.parents))]
RECIPE = ROOT / "docs" / "tutorials" / "write_a_detector.md"


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def snippets(page: Path) -> list[str]:
    """All but the one that needs OpenOOD, which tests/openood runs, and the recipe's, which is no program."""
    if page == RECIPE:
        return []
    return [code for code in blocks("python", page.read_text(encoding="utf-8")) if "openood" not in code]


SNIPPETS = {
    f"{page.relative_to(ROOT).as_posix()}, snippet {number}": code
    for page in PAGES
    for number, code in enumerate(snippets(page), 1)
}


def asked(code: str) -> set[str]:
    """The detectors that a snippet evaluates."""
    (call,) = (
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "evaluate"
    )
    return set(ast.literal_eval(call.args[2]))


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
        "net": net,
        "network": net,
        **dict.fromkeys(["train_dataset", "train_images"], train),
        **dict.fromkeys(["val_dataset", "val_images"], dataset(labels)),
        "test_features": test_features,
        "test_labels": labels,
        "test_images": dataset(labels),
        **dict.fromkeys(["ood_val_dataset", "ood_val_images"], dataset(outside)),
        **dict.fromkeys(["ood_dataset", "cifar100_images", "others"], dataset(outside)),
        **dict.fromkeys(["noise_dataset", "texture_images"], dataset(outside)),
        "loader": DataLoader(train, 20),
        "train_one_epoch": lambda: None,
    }


def test_there_are_snippets() -> None:
    pages = {where.partition(",")[0] for where in SNIPPETS}
    assert pages >= {"README.md", "docs/index.md", "docs/howto/splits.md", "docs/howto/follow_a_training.md"}


@pytest.mark.parametrize("where", SNIPPETS)
def test_a_snippet_runs(where: str, names: dict[str, object]) -> None:
    exec(compile(SNIPPETS[where], where, "exec"), names)
    assert "evaluation" in names or "monitor" in names
    if "evaluation" in names:
        evaluation = names["evaluation"]
        assert not evaluation.failures
        assert {result.detector for result in evaluation.results} == asked(SNIPPETS[where])
        assert len(asked(SNIPPETS[where])) == 3
    else:
        assert len(Path("trajectory.jsonl").read_text(encoding="utf-8").splitlines()) > 2


def test_every_link_of_the_readme_leads_somewhere() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    assert len(links) > 10
    assert not {link for link in links if not (ROOT / link).is_file()}
    assert len(text.splitlines()) <= 150


@pytest.mark.slow
def test_adding_a_detector(tmp_path: Path) -> None:
    """One new file, one for its search and a function: then it is listed, scored and held to the contract."""
    for directory in ("nci_plugin", "configs", "tests"):
        shutil.copytree(ROOT / directory, tmp_path / directory, ignore=shutil.ignore_patterns("__pycache__", "openood"))
    shutil.copytree(ROOT / "nci_plugin" / "adapters" / "openood", tmp_path / "nci_plugin" / "adapters" / "openood")
    for file in ("setup.cfg", "README.md"):
        shutil.copyfile(ROOT / file, tmp_path / file)
    recipe = RECIPE.read_text(encoding="utf-8")
    written, (config,), (twin,) = (blocks(kind, recipe) for kind in ("{code-cell}", "yaml", "python"))
    registered = "from nci_plugin.detectors.registry import register_detector"
    code = f"{registered}\n\n{written[0]}".replace("\nclass ", "\n@register_detector\nclass ")
    (name,) = re.findall(r'^    name = "(\w+)"$', code, re.MULTILINE)
    (tmp_path / "nci_plugin" / "detectors" / "a_file_of_any_name.py").write_text(code, encoding="utf-8")
    (tmp_path / "configs" / "postprocessors" / f"{name}.yml").write_text(config, encoding="utf-8")
    with (tmp_path / "tests" / "helpers" / "twins.py").open("a", encoding="utf-8") as twins:
        twins.write(f"\n\n{twin}")

    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert re.search(rf"^ *{name}\b.*this tutorial 2026", python("-m", "nci_plugin", "list"), re.MULTILINE)
    contract = ["tests/test_detector_contract.py", "tests/test_degenerate.py"]
    out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *contract, "-k", name)
    assert int(re.search(r"(\d+) passed", out).group(1)) > 30
