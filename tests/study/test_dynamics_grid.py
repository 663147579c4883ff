"""The grid of small trainings: its plan, one run that is cut and goes on, and the quick grid from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import grid
import grid_data
import pandas as pd
import pytest
import torch

from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.checks import PluginError
from nci_plugin.dynamics.trajectory import find_trajectories, read_trajectory

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "study" / "dynamics" / "grid.py"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    write_digits(root)
    return root


def test_one_condition_varies_at_a_time() -> None:
    runs = [run for run in grid.grid() if run.factor is None]
    assert len({run.name for run in runs}) == len(runs)
    assert {run.seed for run in runs} == {0, 1, 2}
    for run in runs:
        if run.data == "digits":
            usual = {**grid.BASE[run.architecture], "weight_decay": 1e-4}
            differing = {name for name, value in usual.items() if run.conditions[name] != value}
            assert len(differing) <= 1, run.name
    for factor, levels in (("depth", 4), ("width", 4), ("activation", 4), ("weight_decay", 5), ("head", 2)):
        assert len({run.conditions[factor] for run in runs if run.architecture == "mlp"}) == levels


def test_the_2x2_is_there_where_the_images_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def groups() -> set[tuple[str, str]]:
        return {(run.data, run.architecture) for run in grid.grid()}

    monkeypatch.setattr(grid_data, "DATA", tmp_path)
    assert groups() == {("digits", "mlp"), ("digits", "resnet")}
    (tmp_path / "load_pack.py").touch()
    assert groups() == {(data, net) for data in ("digits", "cifar10_subset") for net in ("mlp", "resnet")}


def test_logged_epochs() -> None:
    for run in grid.grid():
        logged = run.logged
        assert logged[0] == 0
        assert logged[-1] == run.recipe.epochs
        assert 18 <= len(logged) <= 32
        ends = [sum(epochs for _, epochs in run.recipe.phases[: index + 1]) for index in range(len(run.recipe.phases))]
        assert set(ends) <= set(logged)
        if run.factor is not None:
            assert run.intervened_at in logged
            control = replace(run, factor=None, probed=True)
            assert control.logged == logged


def test_a_run_that_was_cut_goes_on(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = grid.quick_grid()[0]
    run = replace(run, recipe=replace(run.recipe, epochs=5), options={**run.options, "width": 8, "depth": 1})
    assert run.probed
    grid.execute(run, tmp_path / "whole", data_root)
    whole = run.file(tmp_path / "whole")

    class Killed(Exception):
        pass

    meter = grid._meter(run.data, 8, data_root)

    class Cut:
        benchmark, images = meter.benchmark, meter.images

        @staticmethod
        def probed(network: torch.nn.Module, epoch: int, loss: str) -> object:
            if epoch == 3:
                raise Killed
            return meter.probed(network, epoch, loss)

    with monkeypatch.context() as patch:
        patch.setattr(grid, "_meter", lambda *_: Cut)
        with pytest.raises(Killed):
            grid.execute(run, tmp_path / "cut", data_root)
    assert [record.epoch for record in read_trajectory(run.file(tmp_path / "cut")).records] == [0, 1, 2]
    grid.execute(run, tmp_path / "cut", data_root)
    assert run.file(tmp_path / "cut").read_bytes() == whole.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(grid, "train", None)
        assert grid.execute(run, tmp_path / "cut", data_root) == 0
        other = replace(run, recipe=replace(run.recipe, epochs=6))
        with pytest.raises(PluginError, match="under other conditions"):
            grid.execute(other, tmp_path / "cut", data_root)


@pytest.mark.slow
def test_quick_grid(data_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "out"), "--quick"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--data-root", str(data_root)], check=True, env=environment, capture_output=True)
    runs = [read_trajectory(path) for path in find_trajectories(tmp_path / "out" / "runs")]
    assert len(runs) == 6
    for run in runs:
        assert run.series("train_loss")[-1] < run.series("train_loss")[run.epochs == 1]
        assert torch.isfinite(torch.from_numpy(run.auroc("nci", "far"))).all()
    table = pd.read_csv(tmp_path / "out" / "grid.csv")
    assert len(table) == 6
    assert (table["train_accuracy"] > 90).all()
    by_loss = table.groupby("loss")["nc1_quotient"].mean()
    assert by_loss["mse"] < by_loss["ce"]
    probed = pd.read_csv(tmp_path / "out" / "probe.csv")
    assert set(probed["attack"]) == {"clean", *map(str, grid.ATTACKS)}
    moved = pd.read_csv(tmp_path / "out" / "interventions.csv")
    assert (moved["fn_after"] / moved["fn_before"]).round(3).eq(2).all()
    assert set(moved["seed"]) == {0, 1}
    again = subprocess.run([*command, "--data-root", str(data_root)], check=True, env=environment, capture_output=True)
    assert again.stdout.count(b"there already") == 8
