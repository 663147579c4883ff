"""``nci-ood dynamics`` on epoch checkpoints of a tiny network, and on logged trajectories."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import command, dynamics
from planted import planted
from tiny import Tiny

from nci_plugin.cli.dynamics import FEATURES
from nci_plugin.detectors import registry
from nci_plugin.dynamics.checkpoints import CheckpointRun, epoch_of, find_runs, read_history
from nci_plugin.dynamics.trajectory import FN, GROUPS, TrajectoryFile, read_trajectory

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = '''
from nci_plugin import Detector, Paper

class Mine(Detector):
    """Score = max_k z_k (an example, 2026)."""

    name = "mine"
    paper = Paper("An example", "Author", "Venue", 2026, "https://example.org")

    def _score(self, features, logits):
        return logits.amax(dim=1)
'''
DETECTORS = {"nci", "pscore", "feature_norm", "msp", "neco"}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """With epochs 1, 2 and 10 of one run; no wait for the disk, no figures."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("nci_plugin.report.dynamics_files.draw", lambda analysis, output: [])
    tiny = Tiny(tmp_path)
    for epoch in (1, 2, 10):
        tiny.save_checkpoint(tmp_path / "run" / f"model_epoch{epoch}.ckpt", seed=epoch)
    return tiny


def logged(tiny: Tiny, run: str = "run") -> Any:
    return read_trajectory(tiny.output / run)


# -------------------------------------------------------------------- finding checkpoints


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("model_epoch10.ckpt", 10),
        ("epoch-10_loss0.123.ckpt", 10),
        ("epoch_010.ckpt", 10),
        ("last_epoch100_acc0.9410.ckpt", 100),
        ("Epoch=7-step=900.ckpt", 7),
        ("best.ckpt", None),
        ("checkpoint_10.pth", None),
    ],
)
def test_epoch_of_a_file_name(name: str, epoch: int | None) -> None:
    assert epoch_of(Path(name)) == epoch


def touch(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory


def test_checkpoints_of_a_directory_are_one_run(tmp_path: Path) -> None:
    run = touch(
        tmp_path / "run", "epoch_9.pth", "epoch_010.pth", "best.ckpt", "best_epoch10_acc0.9.ckpt", "epoch_3.txt"
    )
    (found,) = find_runs([run])
    assert found == CheckpointRun("run", run, {9: run / "epoch_9.pth", 10: run / "epoch_010.pth"})
    assert list(found.files) == [9, 10]


def test_last_checkpoint_counts_where_its_epoch_has_no_other(tmp_path: Path) -> None:
    run = touch(tmp_path / "run", "model_epoch1.ckpt", "best_epoch1_acc0.5.ckpt", "last_epoch2_acc0.5.ckpt")
    assert [path.name for path in find_runs([run])[0].files.values()] == [
        "model_epoch1.ckpt",
        "last_epoch2_acc0.5.ckpt",
    ]


def test_directories_of_seeds_are_runs(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "s0", "epoch1.ckpt")
    touch(tmp_path / "train" / "s1", "epoch1.ckpt")
    found = find_runs([tmp_path / "train"])
    assert [(run.name, run.seed) for run in found] == [("train_s0", 0), ("train_s1", 1)]
    assert find_runs([tmp_path / "train" / "s1"]) == found[1:]


def test_files_are_one_run(tmp_path: Path) -> None:
    touch(tmp_path / "run", "epoch1.ckpt", "epoch2.ckpt", "epoch3.ckpt")
    (run,) = find_runs([tmp_path / "run" / "epoch3.ckpt", tmp_path / "run" / "epoch1.ckpt"])
    assert list(run.files) == [1, 3]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["best.ckpt"], "no file is named like epoch-10"),
        (["epoch1.ckpt", "epoch_1.ckpt"], "are both of epoch 1"),
        ([], "no file is named like"),
    ],
)
def test_checkpoints_that_cannot_be_used(tmp_path: Path, names: list[str], text: str) -> None:
    code, _, error = command(["dynamics", str(touch(tmp_path / "run", *names)), "--benchmark", "digits"])
    assert code == 2
    assert text in error
    assert error.count("\n") == 1


def test_file_without_an_epoch_is_refused(tmp_path: Path) -> None:
    code, _, error = command(["dynamics", str(touch(tmp_path, "best.ckpt") / "best.ckpt"), "--benchmark", "digits"])
    assert code == 2
    assert "its name must tell its epoch" in error


def test_history(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,train_loss,accuracy\n1,0.5,80\n2,,90\n")
    assert {epoch: entry["accuracy"] for epoch, entry in read_history(tmp_path).items()} == {1: 80, 2: 90}
    (tmp_path / "history.jsonl").write_text("{")
    code, _, error = command(["dynamics", str(touch(tmp_path, "epoch1.ckpt")), "--benchmark", "digits"])
    assert code == 2
    assert "history.jsonl" in error


# -------------------------------------------------------------------- measuring


def test_every_checkpoint_is_measured(tiny: Tiny) -> None:
    code, output, error = command(dynamics(tiny, tiny.root / "run", flags=("--condition", "depth=4", "lr=1e-3")))
    assert code == 0, error
    run = logged(tiny)
    assert run.epochs.tolist() == [1, 2, 10]
    assert run.conditions == {"architecture": "make", "data": "tiny", "depth": 4, "lr": 0.001}
    for record in run.records:
        assert record.collapse["nc1_quotient"] is not None
        assert record.collapse[FN] is not None
        assert set(record.auroc) == DETECTORS
        assert all(set(by_group) == set(GROUPS) for by_group in record.auroc.values())
        assert record.train_from == "ce of the training images in eval mode"
    assert "3 checkpoints, 3 measured now" in output
    assert "run: collapse on the training set by epoch" in output
    analysis = json.loads((tiny.output / "dynamics.json").read_text())
    assert [each["outcome"] for each in analysis["onsets"]] == ["censored"]


def test_numbers_are_those_of_the_network(tiny: Tiny) -> None:
    """Feature norms and loss of one checkpoint, computed here from its images."""
    assert command(dynamics(tiny, tiny.root / "run"))[0] == 0
    network = tiny.network()
    network.load_state_dict(torch.load(tiny.root / "run" / "model_epoch10.ckpt", weights_only=True))
    features: list[torch.Tensor] = []
    network.fc.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    from nci_plugin.benchmarks.opening import image_batches, open_splits
    from nci_plugin.config import load_benchmark

    splits = open_splits(load_benchmark(str(tiny.yaml)).with_data_root(tiny.data))
    images, labels = next(image_batches("id/train", splits["id/train"], 100))
    with torch.no_grad():
        logits = network.eval()(images)
    record = logged(tiny).records[-1]
    assert record.collapse[FN] == pytest.approx(features[0].norm(dim=1).mean().item(), rel=1e-5)
    assert record.train_loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels.long()).item(), rel=1e-5)


def _numbers(collapse: Any) -> dict[str, float]:
    return {name: value for name, value in collapse.items() if value is not None}


def test_files_that_do_not_fit_in_memory_give_the_same_numbers(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(dynamics(tiny, tiny.root / "run"))[0] == 0
    monkeypatch.setattr("nci_plugin.cli.dynamics.MEMORY_BYTES", 0)
    monkeypatch.setattr("nci_plugin.cli.dynamics.Meter", None)  # which holds decoded images
    other = tiny.root / "other"
    assert command(dynamics(tiny, tiny.root / "run", output=other))[0] == 0
    for first, second in zip(logged(tiny).records, read_trajectory(other / "run").records):
        assert _numbers(second.collapse) == pytest.approx(_numbers(first.collapse), rel=1e-4, abs=1e-6)
        assert second.auroc["nci"] == pytest.approx(first.auroc["nci"])
        assert (second.weights, second.data) == (first.weights, first.data)
    assert not (other / FEATURES).exists()


def test_features_that_lie_in_the_output_stay(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nci_plugin.cli.dynamics.MEMORY_BYTES", 0)
    monkeypatch.setattr("nci_plugin.cli.dynamics.Meter", None)  # which writes no features
    there = tiny.output / "features" / "of-an-evaluation"
    there.parent.mkdir(parents=True)
    there.write_text("hours of work")
    assert command(dynamics(tiny, tiny.root / "run"))[0] == 0
    assert there.read_text() == "hours of work"


def test_second_run_measures_nothing_and_changes_nothing(tiny: Tiny) -> None:
    arguments = dynamics(tiny, tiny.root / "run")
    assert command(arguments)[0] == 0
    before = (tiny.output / "run" / "trajectory.jsonl").read_bytes()
    tiny.passes()
    code, output, _ = command(arguments)
    assert (code, tiny.passes()) == (0, [])
    assert "3 checkpoints, 0 measured now" in output
    assert (tiny.output / "run" / "trajectory.jsonl").read_bytes() == before


def test_other_code_or_hyperparameters_are_measured_again(tiny: Tiny) -> None:
    """A record of the same weights was kept, and shown under the new code, or the new K."""
    for neighbours in (1, 9):
        text = f"postprocessor: {{name: knn, APS_mode: False, postprocessor_args: {{K: {neighbours}}}}}"
        (tiny.root / f"{neighbours}.yml").write_text(text)
    arguments = dynamics(tiny, tiny.root / "run", flags=("--detectors", "msp", str(tiny.root / "1.yml")))
    assert "3 measured now" in command(arguments)[1]
    assert "0 measured now" in command(arguments)[1]
    other = [each.replace(f"{os.sep}1.yml", f"{os.sep}9.yml") for each in arguments]
    assert "3 measured now" in command(other)[1]
    tiny.net.write_text(tiny.net.read_text().replace("self.conv(x).relu()", "self.conv(x).abs()"))
    before = [record.auroc["msp"] for record in logged(tiny).records]
    assert "3 measured now" in command(other)[1]
    assert [record.auroc["msp"] for record in logged(tiny).records] != before


def test_checkpoints_beside_what_was_logged_are_said_not_to_be_measured(tiny: Tiny) -> None:
    """With ``--output`` in the directory of the checkpoints, new ones were passed over in silence."""
    arguments = dynamics(tiny, tiny.root / "run")
    command(arguments)
    shutil.copyfile(tiny.output / "run" / "trajectory.jsonl", tiny.root / "run" / "trajectory.jsonl")
    tiny.save_checkpoint(tiny.root / "run" / "model_epoch11.ckpt", seed=11)
    code, output, _ = command(arguments)
    assert code == 0
    assert "run: 3 logged epochs" in output
    assert "run: 4 checkpoints are not measured" in output


def test_another_detector_of_the_same_name_is_measured_again(tiny: Tiny) -> None:
    """By its code; fewer of the detectors that were measured are no reason."""
    own = tiny.root / "mine.py"
    own.write_text(OWN)
    arguments = dynamics(tiny, tiny.root / "run", flags=("--detectors", "msp", "nci", f"{own}:Mine"))
    assert "3 measured now" in command(arguments)[1]
    command(arguments)  # it counts which of the user's modules are loaded, the network's now among them
    before = [record.auroc for record in logged(tiny).records]
    assert "0 measured now" in command(arguments)[1]
    assert "0 measured now" in command([each for each in arguments if each != "nci"])[1]
    own.write_text(OWN.replace("amax", "amin"))
    assert "3 measured now" in command(arguments)[1]
    assert [record.auroc for record in logged(tiny).records] != before


def test_another_formula_is_measured_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = dynamics(tiny, tiny.root / "run", flags=("--detectors", "msp"))
    assert "3 measured now" in command(arguments)[1]
    monkeypatch.setattr(registry.detector_class("msp"), "formula", 2)
    assert "3 measured now" in command(arguments)[1]


def test_what_a_kill_or_other_weights_left_is_measured_again(tiny: Tiny) -> None:
    arguments = dynamics(tiny, tiny.root / "run")
    assert command(arguments)[0] == 0
    path = tiny.output / "run" / "trajectory.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    code, output, error = command(arguments)
    assert code == 0
    assert "1 measured now" in output
    assert "cut by a kill" in error
    assert path.read_bytes() == whole
    tiny.save_checkpoint(tiny.root / "run" / "model_epoch2.ckpt", seed=99)
    code, output, _ = command(arguments)
    assert "1 measured now" in output
    assert logged(tiny).epochs.tolist() == [1, 2, 10]
    assert path.read_bytes() != whole


def test_epochs_without_a_checkpoint_stand_unless_they_are_of_another_training(tiny: Tiny) -> None:
    """They may be deleted once they are measured; but a new training must not go on with the epochs of the old one."""
    arguments = dynamics(tiny, tiny.root / "run")
    assert command(arguments)[0] == 0
    (tiny.root / "run" / "model_epoch10.ckpt").unlink()
    code, output, _ = command(arguments)
    assert (code, logged(tiny).epochs.tolist()) == (0, [1, 2, 10])
    assert "no checkpoint any more of epochs 10" in output
    before = (tiny.output / "run" / "trajectory.jsonl").read_bytes()
    tiny.save_checkpoint(tiny.root / "run" / "model_epoch2.ckpt", seed=99)
    code, _, error = command(arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert "holds epochs 10 of another training, whose weights after epoch 2 were others" in error
    assert (tiny.output / "run" / "trajectory.jsonl").read_bytes() == before


def test_history_beside_the_checkpoints_is_used_and_said(tiny: Tiny) -> None:
    entries = [{"epoch": epoch, "phase": "ce", "loss": epoch / 10, "accuracy": 50.0 + epoch} for epoch in (1, 2)]
    (tiny.root / "run" / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    code, output, _ = command(dynamics(tiny, tiny.root / "run"))
    assert code == 0
    first, second, last = logged(tiny).records
    assert (first.train_loss, second.train_loss, first.train_accuracy) == (0.1, 0.2, 51.0)
    assert first.train_from.startswith("history.jsonl")
    assert last.train_from == "ce of the training images in eval mode"
    assert "history.jsonl" in output


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--metric", "nc9"), "unknown metric 'nc9'"),
        (("--sustained", "0"), "sustained"),
        (("--condition", "depth"), "NAME=VALUE"),
        (("--detectors", "nciii"), "did you mean"),
    ],
)
def test_bad_options_are_refused_before_a_pass(tiny: Tiny, flags: tuple[str, ...], text: str) -> None:
    code, _, error = command(dynamics(tiny, tiny.root / "run", flags=flags))
    assert (code, tiny.passes(), tiny.output.exists()) == (2, [], False)
    assert text in error


def test_benchmark_must_be_known(tiny: Tiny) -> None:
    code, _, error = command(["dynamics", str(tiny.root / "run")])
    assert code == 2
    assert "--benchmark" in error


# -------------------------------------------------------------------- logged trajectories


def log(directory: Path, onset: int, **conditions: Any) -> None:
    run = planted(directory.name, onset, **conditions)
    directory.mkdir(parents=True)
    file = TrajectoryFile(directory / "trajectory.jsonl", run.run, run.conditions)
    for record in run.records:
        file.add(record)


def test_trajectories_are_analysed_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With figures, PNG alone."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("nci_plugin.report.figures.SUFFIXES", (".png",))
    for depth in (2, 4):
        for seed in range(3):
            log(tmp_path / "runs" / f"d{depth}s{seed}", 50 * depth, depth=depth, seed=seed)
    output = tmp_path / "out"
    code, text, error = command(["dynamics", str(tmp_path / "runs"), "--output", str(output)])
    assert code == 0, error
    analysis = json.loads((output / "dynamics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [each["epoch"] for each in analysis["onsets"]] == [100] * 3 + [200] * 3
    (loss,) = [
        each for each in analysis["skills"] if (each["predictor"], each["left_out"]) == ("train loss", "one run out")
    ]
    assert (loss["lead"], loss["mae"], loss["n"]) == (40, 0, 6)
    for title in ("Onset of collapse", "fn*: mean", "What foretells the onset"):
        assert title in text
    figures = {str(path.relative_to(output)) for path in output.rglob("*.png")}
    assert figures == {"fn_nc1.png", "predictors.png", *(f"d{d}s{s}/collapse.png" for d in (2, 4) for s in range(3))}


def test_a_probed_trajectory_of_the_first_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nci_plugin.report.dynamics_files.draw", lambda analysis, output: [])
    earlier = Path(__file__).parent / "study" / "earlier" / "runs"
    code, text, error = command(["dynamics", str(earlier), "--output", str(tmp_path / "out")])
    assert code == 0, error
    assert "3 logged epochs" in text
    assert [line.split()[:4] for line in text.splitlines() if line.split()[1:2] == ["mse"]] == [
        ["3", "mse", "0.4896", "1.062"],
        ["6", "mse", "0.3833", "0.8098"],
    ]


def test_a_run_that_just_began_and_a_file_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without an epoch ended the command in a division by zero, and the file was taken for a checkpoint."""
    monkeypatch.setattr("nci_plugin.report.figures.SUFFIXES", (".png",))
    begun = tmp_path / "begun" / "trajectory.jsonl"
    TrajectoryFile(begun, "begun", {})
    log(tmp_path / "whole", 100)
    out = ["--output", str(tmp_path / "out")]
    code, _, error = command(["dynamics", str(begun), *out])
    assert (code, error.count("\n")) == (2, 1)
    assert "log no epoch yet" in error
    code, text, error = command(["dynamics", str(begun), str(tmp_path / "whole" / "trajectory.jsonl"), *out])
    assert code == 0, error
    assert "begun: 0 logged epochs" in text
    assert [each["run"] for each in json.loads((tmp_path / "out" / "dynamics.json").read_text())["onsets"]] == ["whole"]


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    for place in ("a", "b"):
        log(tmp_path / place / "run", 100)
    code, _, error = command(["dynamics", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    assert code == 2
    assert "two of that name" in error
    shutil.rmtree(tmp_path / "b")
    touch(tmp_path / "b" / "run", "epoch1.ckpt")
    code, _, error = command(["dynamics", str(tmp_path / "a"), str(tmp_path / "b" / "run")])
    assert code == 2
    assert "two of that name" in error
