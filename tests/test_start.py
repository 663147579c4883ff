"""A command that only reads results imports no torch, which costs more than all that it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_ood.detector
from result_rows import rows_of
from scipy.stats import rankdata
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import InterpolationMode

from nci_plugin.adapters.pytorch_ood_table import stored as of_pytorch_ood
from nci_plugin.benchmarks import decoding, folder
from nci_plugin.comparison.delong import ranks
from nci_plugin.detectors import registry
from nci_plugin.networks import etf, mlp, named
from nci_plugin.report.names import own_names

SCRIPT = """
import sys
from nci_plugin.cli.main import main
code = main(sys.argv[1:])
print("loaded:", [name for name in ("torch", "torchvision", "scipy.stats") if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def stored(path: Path) -> Path:
    path.mkdir()
    rows = [row for detector in ("nci", "msp") for row in rows_of(detector, seed="s0")]
    (path / "results.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows))
    return path


NAMES = ["--arch-name", "ResNet18", "--training", "CrossEntropy", "--description", "100 epochs"]


@pytest.mark.parametrize(("command", "options"), [(["leaderboard", "rank"], NAMES), (["report"], [])])
def test_no_torch_to_read_results(command: list[str], options: list[str], tmp_path: Path) -> None:
    path = stored(tmp_path / "cifar10_resnet18_32x32_base_e100_lr0.1_default")
    arguments = [*command, str(path), *options]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "loaded: []" in done.stderr


def test_what_stands_here_in_the_place_of_an_import_is_the_same() -> None:
    assert folder.IMG_EXTENSIONS == IMG_EXTENSIONS
    assert set(decoding.INTERPOLATIONS) == {mode.value for mode in InterpolationMode}
    assert tuple(mlp.ACTIVATIONS) == named.ACTIVATION_NAMES
    for kind in named.HEADS:
        assert etf.make_head(8, 4, kind).weight.shape == (4, 8)


def test_names_are_those_of_the_classes() -> None:
    ours = [name for name in registry.names() if registry.detector_class(name).__module__.startswith("nci_plugin.")]
    assert own_names() == {name: registry.detector_class(name).display for name in ours}


def test_what_is_stored_of_pytorch_ood_is_what_it_says() -> None:
    for name, known in of_pytorch_ood().items():
        cls = getattr(pytorch_ood.detector, name)
        assert known["grid"] == cls.hyperparameter_space
        paper = cls.info.paper and {key: getattr(cls.info.paper, key) for key in ("title", "venue", "year", "url")}
        assert known["paper"] == (paper and {**paper, "title": " ".join(paper["title"].split())})


def test_ranks_are_those_of_scipy() -> None:
    rows = np.random.default_rng(0).integers(0, 20, (3, 50)) / 4
    np.testing.assert_array_equal(ranks(rows), rankdata(rows, axis=1))
