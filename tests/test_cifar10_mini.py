"""A real network on real images, through the real command, against OpenOOD's own evaluator on the same files.

Needs 150 MB of images and a public ResNet-20 that are not part of this repository: the directory NCI_PLUGIN_DATA
must hold ``unpack.py``, ``arch_cifar.py`` and ``checkpoints/cifar10_resnet20.pt``. Takes some minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nci_plugin.evaluation.results import METRICS, read_results

DATA = Path(os.environ.get("NCI_PLUGIN_DATA", "there is no such directory"))
GOLDEN = json.loads((Path(__file__).parent / "golden" / "openood_cifar10_mini_resnet20.json").read_text())
TOLERANCES = {"nci": 0.02, "msp": 0.05, "mls": 0.02, "ebo": 0.02, "knn": 0.05}
"""Points. A third of the softmax scores saturate at 1.0, so msp's metrics hang on the last bit of the features."""

BENCHMARK = """
benchmark:
  name: cifar10_mini
  num_classes: 10
  preprocessing:
    pre_size: 32
    img_size: 32
    normalization: [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
  id:
    train: {data_dir: images_classic/, imglist_path: benchmark_imglist/cifar10_mini/train_cifar10.txt}
    val: {data_dir: images_classic/, imglist_path: benchmark_imglist/cifar10_mini/val_cifar10.txt}
    test: {data_dir: images_classic/, imglist_path: benchmark_imglist/cifar10_mini/test_cifar10.txt}
  ood:
    val: {data_dir: images_classic/, imglist_path: benchmark_imglist/cifar10_mini/val_cifar100.txt}
    near:
      datasets: [cifar100]
      cifar100: {data_dir: images_classic/, imglist_path: benchmark_imglist/cifar10_mini/test_cifar100.txt}
    far:
      datasets: [mnist]
      mnist: {data_dir: images_classic/, imglist_path: benchmark_imglist/cifar10_mini/test_mnist.txt}
"""


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="NCI_PLUGIN_DATA does not name a directory with CIFAR-10 and a ResNet-20")
def test_nci_and_the_baselines_give_openoods_numbers(tmp_path):
    subprocess.run([sys.executable, str(DATA / "unpack.py"), str(tmp_path / "data")], check=True)
    (tmp_path / "cifar10_mini.yml").write_text(BENCHMARK)
    command = [sys.executable, "-m", "nci_plugin", "eval", "cifar10_mini.yml", "--output", "out"]
    command += ["--net", f"{DATA / 'arch_cifar.py'}:resnet20"]
    command += ["--ckpt-path", str(DATA / "checkpoints" / "cifar10_resnet20.pt"), "--detectors", *TOLERANCES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "the benchmark has no covariate-shifted set" in done.stdout
    results = read_results(tmp_path / "out" / "results.jsonl")
    assert {result.setting for result in results} == {"ood"}
    for detector, tolerance in TOLERANCES.items():
        rows = {result.dataset: result for result in results if result.detector == detector}
        assert list(rows) == list(GOLDEN[detector]["ood"])
        for name, expected in GOLDEN[detector]["ood"].items():
            got = {column: getattr(rows[name], metric) for metric, column in METRICS.items()}
            assert got == pytest.approx(expected, abs=tolerance)
    chosen = next(result for result in results if result.detector == "nci")
    assert chosen.hyperparameters == {"alpha": GOLDEN["nci"]["hyperparam"]}
