"""As a new user: train a torchvision network on five classes of CIFAR-10, fit, save, score a folder, export.

By command, and in the notebook of the documentation. Needs the directory NCI_PLUGIN_DATA with
``cifar10_train.npz``, ``cifar10_test.npz`` and ``load_pack.py``; some minutes.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.stats import betabinom
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from nci_plugin import Benchmark, OODDetector, Preprocessing, evaluate

DATA = Path(os.environ.get("NCI_PLUGIN_DATA", "there is no such directory"))
NAMES = ("airplane", "automobile", "bird", "cat", "deer")
COUNTS = {"train": 600, "val": 200, "test": 300}
"""Images of each class; and of each of the five other classes in the folder that is scored, as many as of test."""

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
NET = """
import torchvision

def make(num_classes=5):
    return torchvision.models.shufflenet_v2_x0_5(num_classes=num_classes)
"""
FLAGS = ["--pre-size", "32", "--img-size", "32", "--mean", *map(str, MEAN), "--std", *map(str, STD)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="NCI_PLUGIN_DATA does not name a directory with CIFAR-10"),
]


def pack(name: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("load_pack", DATA / "load_pack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(DATA / name)


def lay_out(root: Path) -> None:
    """train and val of training images, test of test images, and ``mixed``: test images of five known and five other
    classes in one folder."""
    train, test = pack("cifar10_train.npz"), pack("cifar10_test.npz")
    for label, name in enumerate(NAMES):
        places = np.flatnonzero(train["labels"] == label)
        for split, rows in (("train", places[: COUNTS["train"]]), ("val", places[-COUNTS["val"] :])):
            (root / split / name).mkdir(parents=True)
            for row in rows:
                Image.fromarray(train["images"][row]).save(root / split / name / f"{row}.png")
    (root / "mixed").mkdir()
    for label in range(10):
        folder = root / ("test" if label < 5 else "ood") / (NAMES[label] if label < 5 else "any")
        folder.mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(test["labels"] == label)[: COUNTS["test"]]:
            image = Image.fromarray(test["images"][row])
            image.save(folder / f"{row}.png")
            image.save(root / "mixed" / f"{'id' if label < 5 else 'ood'}_{row}.png")


def train(root: Path) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    steps = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    loader = torch.utils.data.DataLoader(ImageFolder(str(root / "train"), transforms.Compose(steps)), 50, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(6):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    root = tmp_path_factory.mktemp("end_to_end")
    lay_out(root)
    model = train(root)
    torch.save(model.state_dict(), root / "net.pt")
    (root / "net.py").write_text(NET, encoding="utf-8")
    return root, model


def command(root: Path, *arguments: str) -> str:
    network = ["--net", "net.py:make", "--ckpt-path", "net.pt", "--device", "cpu"]
    line = [sys.executable, "-m", "nci_plugin", *arguments, *network]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_user(place: tuple[Path, nn.Module]) -> None:
    root, model = place
    chosen = command(root, "recommend", ".", *FLAGS)
    assert "recommended: " in chosen
    assert "AUROC" in chosen
    said = command(root, "fit", ".", *FLAGS, "--output", "d.safetensors")
    assert "calibrated on 1000 ID validation samples" in said

    # A new process scores the folder.
    command(root, "score", "mixed", "--detector", "d.safetensors", "--csv", "scores.csv")
    with (root / "scores.csv").open(newline="") as lines:
        rows = {row["file"]: row for row in csv.DictReader(lines)}
    assert len(rows) == 3000
    known = [row for name, row in rows.items() if name.startswith("id_")]
    others = [row for name, row in rows.items() if name.startswith("ood_")]
    assert {row["class"] for row in known} <= set(NAMES)

    # TPR within the 99.9 % prediction interval of its beta-binomial law.
    loaded = OODDetector.load(root / "d.safetensors", model)
    threshold = loaded.threshold()
    rejected = sum(row["verdict"] == "OOD" for row in known)
    low, high = betabinom(len(known), threshold.rank, threshold.n + 1 - threshold.rank).interval(0.999)
    assert low <= rejected <= high
    assert sum(row["verdict"] == "OOD" for row in others) / len(others) > rejected / len(known)

    # The same AUROC as an evaluation on the same images gives, to the last digit.
    steps = Preprocessing(32, 32, (MEAN, STD))
    benchmark = Benchmark.from_splits(
        "cifar5", 5, train=root / "train", test=root / "test", near={"ood": root / "ood"}, preprocessing=steps
    )
    evaluation = evaluate(model, benchmark, ["nci_plus"], progress=False)
    assert np.array_equal(evaluation.scores["nci_plus"]["id/test"], loaded.score(root / "test").numpy())
    assert np.array_equal(evaluation.scores["nci_plus"]["near/ood"], loaded.score(root / "ood").numpy())
    by_file = {row["file"].split("_")[1]: float(row["score"]) for row in rows.values()}
    paths = [path.name for path in sorted((root / "ood" / "any").iterdir())]
    assert np.allclose([by_file[name] for name in paths], loaded.score(root / "ood").numpy(), atol=1e-4)


@pytest.mark.parametrize("to", ["onnx", "export"])
def test_its_export(place: tuple[Path, nn.Module], to: str) -> None:
    if to == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    root, model = place
    if not (root / "d.safetensors").exists():
        command(root, "fit", ".", *FLAGS, "--output", "d.safetensors")
    said = command(root, "export", "d.safetensors", "--to", to, "--images", "mixed")
    assert "64 images" in said
    detector = OODDetector.load(root / "d.safetensors", model)
    steps = Preprocessing(32, 32, (MEAN, STD))
    images = torch.stack([steps(Image.open(path)) for path in sorted((root / "mixed").iterdir())[:200]])
    expected = detector.predict(images)
    if to == "onnx":
        session = runtime.InferenceSession(str(root / "d.onnx"), providers=["CPUExecutionProvider"])
        score = torch.from_numpy(session.run(["score"], {"images": images.numpy()})[0])
    else:
        with torch.no_grad():
            score = torch.export.load(root / "d.pt2").module()(images)[1]
    assert ((score - expected.scores).abs() <= 1e-4 * expected.scores.abs().clamp(min=1)).all()


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its cells runs and prints where the stored one does, and what it promises holds."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = Path(__file__).resolve().parent.parent / "docs" / "tutorials" / "cifar10.ipynb"
    stored, run = nbformat.read(path, 4), nbformat.read(path, 4)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    nbclient.NotebookClient(run, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.get("outputs", []) for cell in run.cells]
    printed = "".join(output.get("text", "") for each in outputs for output in each)
    for promise in ("were to be expected", "the same AUROC", "the same verdicts"):
        assert f"{promise}: True" in printed
    assert [len(each) > 0 for each in outputs] == [len(cell.get("outputs", [])) > 0 for cell in stored.cells]
