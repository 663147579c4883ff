"""The recorder ``collapse``: OpenOOD's own training, unmodified, with the trajectory beside its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openood.recorders
import pytest
import torch
import yaml
from cifar import BENCHMARK, COUNTS, Checkout
from openood.utils.config import Config

import nci_plugin
from nci_plugin.adapters.openood.recorder import CollapseRecorder
from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.dynamics.trajectory import read_trajectory

CONFIGS = (
    "configs/datasets/cifar10/cifar10.yml",
    "configs/networks/lenet.yml",
    "configs/pipelines/train/baseline.yml",
    "configs/preprocessors/base_preprocessor.yml",
)

pytestmark = pytest.mark.usefixtures("one_thread", "script_host")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("recorder") / "OpenOOD", seeds=0)


@pytest.fixture
def registered() -> Iterator[None]:
    nci_plugin.register()
    yield
    nci_plugin.register(override=False)


def train(checkout: Checkout, patch: pytest.MonkeyPatch, mark: str, **recorder: Any) -> Path:
    """Train three epochs with OpenOOD's main.py; returns its output directory."""
    patch.chdir(checkout.root)
    config = checkout.root / f"{mark}.yml"
    config.write_text(yaml.safe_dump({"recorder": {"save_all_models": False, **recorder}}), encoding="utf-8")
    options = {"num_workers": 0, "optimizer.num_epochs": 3, "mark": mark, "dataset.train.batch_size": 20}
    options.update({"dataset.pre_size": 28, "dataset.image_size": 28})  # of LeNet
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    assert main(["run", "--device", "cpu", "main.py", "--config", *CONFIGS, config.name, *arguments]) == 0
    (output,) = (checkout.root / "results").glob(f"*_{mark}/s0")
    return output


def test_a_training_logs_its_trajectory_and_stays_the_same(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train(checkout, monkeypatch, "alone", name="base")
    capsys.readouterr()
    watched = train(checkout, monkeypatch, "watched", name="collapse", every=2, samples_per_class=3, base="base")
    printed = capsys.readouterr().out
    trajectory = read_trajectory(watched)
    (record,) = trajectory.records
    assert record.epoch == 2
    assert record.collapse["nc1_quotient"] > 0
    assert record.train_from.endswith("3 a class of the loader: 30")
    assert trajectory.conditions["architecture"] == "lenet"
    assert trajectory.conditions["data"] == BENCHMARK
    assert trajectory.conditions["seed"] == 0
    assert printed.count("Collapse | NC1") == 1
    assert printed.count("Train Loss") == 3  # the base recorder's reports
    names = {path.name for path in alone.glob("*.ckpt")}
    assert {path.name for path in watched.glob("*.ckpt")} == names
    assert "best.ckpt" in names
    for name in names:  # measuring drew no random number of the training's, and changed no buffer
        ours, theirs = (torch.load(output / name, weights_only=True) for output in (watched, alone))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert not (alone / "trajectory.jsonl").exists()


def test_it_measures_all_training_images_in_the_test_preprocessing(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = train(checkout, monkeypatch, "all", name="collapse", settled="mean_norm_l2")
    records = read_trajectory(output).records
    assert [record.epoch for record in records] == [1, 2, 3]
    assert all(record.train_from.endswith(f"all of the loader: {COUNTS['id/train']}") for record in records)
    assert len({record.weights for record in records}) == 3


@pytest.mark.usefixtures("registered")
def test_names_are_found_beside_openoods_own(tmp_path: Path) -> None:
    def recorder(**options: Any) -> Any:
        return openood.recorders.get_recorder(Config({"output_dir": str(tmp_path), "recorder": options}))

    assert type(recorder(name="base")).__name__ == "BaseRecorder"
    ours = recorder(name="collapse", base="ad")
    assert isinstance(ours, CollapseRecorder)
    assert type(ours.recorder).__name__ == "ADRecorder"
    with pytest.raises(PluginError, match=r"unknown key 'evry' \(did you mean 'every'\?\)"):
        recorder(name="collapse", evry=2)
    with pytest.raises(PluginError, match="every: must be a whole number above 0, got -1"):
        recorder(name="collapse", every=-1)
