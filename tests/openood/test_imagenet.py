"""OpenOOD's ImageNet benchmark from end to end: a few crops in each of its lists, and a ResNet-50 of random weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from layout import aim, lay_out_code, lay_out_data, patch
from openood.evaluation_api.datasets import DATA_INFO
from PIL import Image
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.cli import eval as eval_command
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark
from nci_plugin.evaluation.results import SETTINGS

BENCHMARK = "imagenet"
SCRIPT = "scripts/eval_ood_imagenet.py"
CHECKPOINT = "results/pretrained_weights/resnet50_imagenet1k_v1.pth"
OUTPUT = "results/imagenet_resnet50_imagenet1k_v1"
FOLDERS = {"id": "imagenet_1k", "ood": "openimage_o", "textures": "texture"}
LABELS = (0, 7, 417, 999)
COUNTS = {"id/train": 8, "id/test": 8, "ood/val": 5}
OTHERS = 4
SIZES = ((320, 260), (230, 330), (256, 256), (100, 120))
FINAL, TINT = 224, 0.3

pytestmark = pytest.mark.usefixtures("one_thread", "script_host")


def draw(split: str, index: int, generator: np.random.Generator) -> tuple[int, Image.Image]:
    """Of several sizes, and some grey, as in ImageNet; those of ImageNet-C have their final size."""
    label = LABELS[index % len(LABELS)] if Benchmark.is_id(split) else -1
    size = (FINAL, FINAL) if split == "csid/imagenet_c" else SIZES[generator.integers(len(SIZES))]
    image = patch(label, generator, *size, TINT)
    return label, image.convert("L") if index == OTHERS - 1 else image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout with the data, and with the weights where OpenOOD's download lays them."""
    root = tmp_path_factory.mktemp("imagenet") / "OpenOOD"
    lay_out_code(root)
    lay_out_data(root, BENCHMARK, FOLDERS, COUNTS, OTHERS, draw, ".JPEG")
    (root / CHECKPOINT).parent.mkdir(parents=True)
    torch.save(weights(), root / CHECKPOINT)
    yield root
    (root / CHECKPOINT).unlink()  # 100 MB, and pytest keeps the directories of the last runs


def weights() -> dict[str, torch.Tensor]:
    """Random ones, with batch statistics of such images and a head that tells the colours of ``LABELS`` apart."""
    preprocessing = load_benchmark(BENCHMARK).preprocessing
    assert preprocessing is not None
    generator = np.random.default_rng(0)
    labels = torch.tensor([*LABELS, -1]).repeat_interleave(3)
    images = torch.stack([preprocessing(patch(int(label), generator, FINAL, FINAL, TINT)) for label in labels])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = resnet50()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics of all batches seen
        net(images)
        features = create_feature_extractor(net.eval(), ["flatten"])(images)["flatten"]
        net.fc.weight.mul_(0.1)
        net.fc.bias.mul_(0.1)
        is_id = labels >= 0
        aim(net.fc, features[is_id], labels[is_id])
    return net.state_dict()


@pytest.fixture
def inside(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    return root


def run(*arguments: str, options: tuple[str, ...] = ()) -> int:
    return main(["run", "--device", "cpu", *options, SCRIPT, "--postprocessor", "nci", "--save-csv", *arguments])


def assert_same(ours: Path, theirs: Path) -> None:
    """The same rows and, within their last digit, numbers; which are not those of a network that sees nothing."""
    table, expected = (pd.read_csv(path, index_col=0) for path in (ours, theirs))
    pd.testing.assert_frame_equal(table, expected, rtol=0, atol=0.0101)
    near, far = (DATA_INFO[BENCHMARK]["ood"][group]["datasets"] for group in ("near", "far"))
    assert list(table.index) == [*near, "nearood", *far, "farood"]
    assert table["AUROC"].nunique() > 2
    assert (table["ACC"] > 0).all()


def command_line(root: Path) -> list[str]:
    """eval_nci.sh, unless it would install something into this environment."""
    lacking = subprocess.run(
        [sys.executable, str(root / "scripts/missing_requirements.py")], capture_output=True, text=True, check=True
    )
    if lacking.stdout or shutil.which("bash") is None or not Path(sys.prefix, "bin", "python").exists():
        return [sys.executable, "-m", "nci_plugin", "eval"]
    return ["bash", "scripts/eval_nci.sh"]


def test_the_command_line_and_openoods_script_agree(inside: Path) -> None:
    """The installed copy, as a user runs it; then OpenOOD's script, which shuffles and searches by itself."""
    assert main(["install", "--into", str(inside)]) == 0
    process = subprocess.run(
        [*command_line(inside), BENCHMARK, "--detectors", "nci", "msp", "--device", "cpu", "--workers", "0"],
        env={**os.environ, "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert {f"OpenOOD: {inside}", f"checkpoint: {inside / CHECKPOINT}"} <= {*lines}
    for table in ("standard OOD: ACC", "full-spectrum OOD (covariate-shifted samples count as ID): ACC"):
        assert [line for line in lines if line.startswith(f"{BENCHMARK}, {table}")], process.stdout

    assert run("--ckpt-path", CHECKPOINT, "--save-score") == 0
    assert run("--ckpt-path", CHECKPOINT, "--fsood", options=("--trust-pickles",)) == 0
    for setting in SETTINGS:
        assert_same(inside / OUTPUT / setting / "nci.csv", (inside / CHECKPOINT).parent / setting / "nci.csv")
        assert (inside / OUTPUT / setting / "msp.csv").is_file()


@pytest.fixture
def downloaded(inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights in the place of torchvision's, with other transforms than the benchmark's."""
    entry = ResNet50_Weights.IMAGENET1K_V1
    preset = partial(
        ImageClassification,
        crop_size=96,
        resize_size=112,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation=InterpolationMode.BICUBIC,
    )
    monkeypatch.setattr(entry.value, "transforms", preset)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = Path(torch.hub.get_dir(), "checkpoints", entry.url.rpartition("/")[2])
    file.parent.mkdir(parents=True)
    file.symlink_to(inside / CHECKPOINT)
    return file


def test_torchvisions_weights_with_their_own_transforms(
    inside: Path, downloaded: Path, tmp_path: Path, capsys: Any
) -> None:
    output = inside / "results" / "imagenet_resnet50_tvsv1_base_default"  # of both
    flags = ["--arch", "resnet50", "--tvs-pretrained"]
    assert run(*flags, "--save-score") == 0
    assert run(*flags, "--fsood", options=("--trust-pickles",)) == 0
    theirs = output.rename(tmp_path / "theirs")
    assert main(["eval", BENCHMARK, *flags, "--detectors", "nci", "--device", "cpu", "--workers", "0"]) == 0
    assert f"checkpoint: {downloaded}" in capsys.readouterr().out.splitlines()
    for setting in SETTINGS:
        assert_same(output / setting / "nci.csv", theirs / setting / "nci.csv")


def test_all_finds_imagenet(inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    evaluated = []
    monkeypatch.setattr(eval_command, "_evaluate", lambda inputs, *others: evaluated.append(inputs) or 0)
    assert main(["eval", "all", "--device", "cpu"]) == 0
    assert [(each.benchmark.name, list(each.checkpoints.values())) for each in evaluated] == [
        (BENCHMARK, [inside / CHECKPOINT])
    ]
    assert evaluated[0].benchmark.data_sets("csid") == DATA_INFO[BENCHMARK]["csid"]["datasets"]
    out = capsys.readouterr().out
    assert f"benchmarks: {BENCHMARK}" in out.splitlines()
    for name in sorted({*DATA_INFO} - {BENCHMARK}):
        (line,) = [line for line in out.splitlines() if line.startswith(f"left out: {name}: ")]
        assert "splits lack their list or images and there are no checkpoints in " in line
