"""``nci-ood fit``, ``score``, ``export`` and ``drift`` on images in folders, as a user runs them."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import served
import torch
from filelock import FileLock
from PIL import Image
from served import NAMES, folders
from tiny import Tiny

from nci_plugin import OODDetector, PluginError
from nci_plugin.cli.main import main
from nci_plugin.deploy.drift import drift, read_scores
from nci_plugin.deploy.file import read
from nci_plugin.deploy.score_log import COLUMNS, ScoreLog
from nci_plugin.deploy.stream import image_names, score_files
from nci_plugin.files import holding
from nci_plugin.networks.named import build_named
from nci_plugin.report.class_figures import duality_figure
from nci_plugin.report.diagnosis_files import read_diagnoses
from nci_plugin.report.diagnosis_tables import class_table
from nci_plugin.training.train import save_checkpoint

MIXED = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a network's file and weights, and a detector that the command fitted."""
    root = tmp_path_factory.mktemp("served")
    folders(root, {"train": 120, "val": 60, "mixed": MIXED})
    (root / "net.py").write_text(served.NETWORK, encoding="utf-8")
    torch.save(served.network().state_dict(), root / "net.pt")
    torch.save(served.network(1).state_dict(), root / "other.pt")
    assert main(fit(root)) == 0
    return root


def network(root: Path, weights: str = "net.pt", factory: str = "make") -> list[str]:
    return ["--net", f"{root / 'net.py'}:{factory}", "--ckpt-path", str(root / weights), "--device", "cpu"]


STEPS = ["--pre-size", "8", "--img-size", "8", "--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]


def fit(root: Path, *more: str, output: str = "d.safetensors") -> list[str]:
    return ["fit", str(root), *network(root), *STEPS, "--output", str(root / output), *more]


def score(root: Path, *more: str, images: str = "mixed") -> list[str]:
    return ["score", str(root / images), "--detector", str(root / "d.safetensors"), *network(root), *more]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


# -------------------------------------------------------------------- fit


def test_fit_says_what_it_fitted_and_its_threshold(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit(place, "--detectors", "nci", "msp", "--class-names", *"abcd", output="two.safetensors")) == 0
    text = capsys.readouterr().out
    assert "120 training images, calibrated on 60 ID validation samples" in text
    assert "with 95 % confidence" in text
    for name in ("nci", "msp"):
        loaded = OODDetector.load(place / f"two_{name}.safetensors", served.network())
        assert loaded.fitted.class_names == tuple("abcd")
    assert not list(place.glob("two.safetensors"))


@pytest.mark.filterwarnings("ignore:validation images. the network gives")
@pytest.mark.parametrize("detector", ["nci", "knn", "msp"])
def test_labels_in_another_order_show_in_the_accuracy(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], detector: str
) -> None:
    """By definition: with the labels in order, and rolled by one, which is fitted as well."""
    model, shares = served.network(), {}
    for shift in (0, 1):
        for split in ("train", "val"):
            files = [(path, label) for label, name in enumerate(NAMES) for path in (place / split / name).iterdir()]
            lines = [f"{path.relative_to(place)} {(label + shift) % len(NAMES)}\n" for path, label in files]
            (tmp_path / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
            images = torch.stack([served.STEPS(Image.open(path)) for path, _ in files])
            labels = torch.tensor([(label + shift) % len(NAMES) for _, label in files])
            with torch.no_grad():
                shares[split] = 100 * float((model(images).argmax(1) == labels).double().mean())
        arguments = ["--val", str(tmp_path / "val.txt"), "--data-root", str(place), *network(place), *STEPS]
        capsys.readouterr()
        output = ["--output", str(tmp_path / "d.safetensors"), "--detectors", detector]
        assert main(["fit", str(tmp_path / "train.txt"), *arguments, *output]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("the network gives"))
        of_training = {"nci": f"{0 if shift else 4} of 4 class means", "knn": f"{shares['train']:.1f} %"}.get(detector)
        first = f"{of_training} of the training images and " if of_training else ""
        assert line == f"the network gives its label to {first}{shares['val']:.1f} % of the validation images"


def test_an_image_list_and_a_names_file_fit_as_the_folder_does(place: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        lines = [
            f"{split}/{name}/{path.name} {label}\n"
            for label, name in enumerate(NAMES)
            for path in sorted((place / split / name).iterdir())
        ]
        (tmp_path / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    arguments = ["--val", str(tmp_path / "val.txt"), "--data-root", str(place), *network(place), *STEPS]
    names = ["--class-names", str(tmp_path / "names.txt"), "--output", str(tmp_path / "d.safetensors")]
    assert main(["fit", str(tmp_path / "train.txt"), *arguments, *names]) == 0
    by_list, by_folder = (
        OODDetector.load(path / "d.safetensors", served.network()).fitted for path in (tmp_path, place)
    )
    assert np.array_equal(by_list.calibration.scores, by_folder.calibration.scores)
    assert by_list.class_names == by_folder.class_names == NAMES
    assert by_list.preprocessing == by_folder.preprocessing
    lines = (tmp_path / "train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.txt").write_text("".join(line for line in lines if not line.endswith(" 3\n")), encoding="utf-8")
    without_last = ["fit", str(tmp_path / "train.txt"), *arguments, *names]
    for validation in (tmp_path / "val.txt", place / "val"):  # it names the class that no training image has
        without_last[without_last.index("--val") + 1] = str(validation)
        assert main(without_last) == 0


def test_a_benchmark_fits_and_its_validation_images_calibrate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    tiny = Tiny(tmp_path, seeds=2)
    output = ["--output", str(tmp_path / "d.safetensors"), "--tpr", "0.8", "--device", "cpu"]
    data = ["--data-root", str(tiny.data), "--net", f"{tiny.net}:make"]
    assert main(["fit", str(tiny.yaml), *data, "--ckpt-path", str(tiny.checkpoint), *output]) == 0
    out, err = capsys.readouterr()
    assert "12 training images, calibrated on 6 ID validation samples" in out
    assert re.search(r"^validation images: the network gives its label to .* % of them; where", err, re.MULTILINE), err
    fitted = OODDetector.load(tmp_path / "d.safetensors", tiny.loaded()).fitted
    assert fitted.preprocessing.img_size == 8  # type: ignore[union-attr]
    two = ["fit", str(tiny.yaml), *data, "--ckpt-path", str(tiny.checkpoints), *output]
    assert "has 2 networks, and a detector belongs to one" in error_of(capsys, two)
    own = ["--mean", "0", "0", "0", "--std", "1", "1", "1"]
    assert "its own validation images" in error_of(capsys, [*two, *own])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--tpr", "0.999"], "needs at least 999"),
        (["--tpr", "95"], "tpr"),
        (["--detectors", "nci_pluss"], "did you mean 'nci_plus'"),
        (["--detectors", "nci", "pytorch_ood:entropy"], "only registered detectors can be saved"),
        (["--val", "no/such"], "--val 'no/such': is not there"),
        (["--class-names", "a", "b"], "4 different names"),
        (["--bank-rows", "0"], "bank_rows"),
        (["--output", "d.pt"], "must be a file named .safetensors"),
        (["--ckpt-path", "no.pt"], "no such file"),
    ],
)
def test_bad_options_of_fit_are_one_line_and_write_nothing(
    place: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert message in error_of(capsys, [*fit(place, output="bad.safetensors"), *change])
    assert [path for path in sorted(place.rglob("*")) if "__pycache__" not in str(path)] == [
        path for path in before if "__pycache__" not in str(path)
    ]


STOPPED = """
from pathlib import Path
PASSED = Path(__file__).with_name("passed")

class Stopped(nn.Sequential):
    def forward(self, images):
        with PASSED.open("a") as file:
            file.write(f"{len(images)}\\n")
        if PASSED.with_name("stop").exists() and len(PASSED.read_text().splitlines()) == 30:
            raise KeyboardInterrupt
        return super().forward(images)

def stopped(num_classes=4):
    return Stopped(*make(num_classes))
"""


@pytest.mark.parametrize(("name", "again"), [("nci", 120), ("knn", 180 - 25 * 4)])
def test_an_interrupted_fit_goes_on_where_it_was(
    place: Path, tmp_path: Path, name: str, again: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features are kept as they come, statistics every ten seconds: there the validation images do not pass again."""
    (tmp_path / "net.py").write_text(served.NETWORK + STOPPED, encoding="utf-8")
    (tmp_path / "stop").touch()
    output, passed = tmp_path / "d.safetensors", tmp_path / "passed"
    net = ["--net", f"{tmp_path / 'net.py'}:stopped", "--ckpt-path", str(place / "net.pt"), "--device", "cpu"]
    arguments = ["fit", str(place), *net, *STEPS, "--output", str(output), "--batch-size", "4", "--detectors", name]
    assert main(arguments) == 130
    assert f"is kept in '{output}.pass'" in capsys.readouterr().out
    assert not output.exists()
    (tmp_path / "stop").unlink()
    passed.unlink()
    kept = tmp_path / f"{output.name}.pass"
    mine = {kept / "mine.txt", kept / "features" / "mine.txt", kept / "extraction_seconds" / "mine.txt"}
    for path in mine:
        path.touch()
    assert main(arguments) == 0
    looked_at = 8 + 8 + 4 + 2 * 8  # the network and what was kept are looked at with a few images
    assert sum(map(int, passed.read_text().split())) <= again + looked_at
    assert {path for path in kept.rglob("*") if not path.is_dir()} == mine
    assert main(fit(place, "--batch-size", "4", "--detectors", name, output="whole.safetensors")) == 0
    got, whole = (read(path) for path in (output, place / "whole.safetensors"))
    assert np.array_equal(got.calibration.scores, whole.calibration.scores)


def test_a_file_that_cannot_be_written_loses_no_pass(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise PluginError("cannot write: the disk is full")

    arguments = ["fit", str(place), *network(place), *STEPS, "--output", str(tmp_path / "d.safetensors")]
    with monkeypatch.context() as patch:
        patch.setattr(OODDetector, "save", full)
        assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "the disk is full" in printed.err
    assert "what has passed is kept" in printed.out
    assert (tmp_path / "d.safetensors.pass" / "features").is_dir()
    assert main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]


def test_fit_needs_a_network_validation_images_and_a_preprocessing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = str(place / "train")
    assert "pass --val" in error_of(capsys, ["fit", train, *network(place), *STEPS])
    assert "--net: is missing" in error_of(capsys, ["fit", str(place), *STEPS])
    assert "--ckpt-path: is missing" in error_of(capsys, ["fit", str(place), "--net", "torchvision:resnet18", *STEPS])
    assert "pass --mean and --std" in error_of(capsys, ["fit", str(place), *network(place)])
    assert "no benchmark has this name" in error_of(capsys, ["fit", str(tmp_path / "none"), *network(place)])
    empty = ["fit", str(tmp_path), "--val", str(tmp_path), *network(place), *STEPS]
    assert "has no sub-folders, which are its classes" in error_of(capsys, empty)


def test_a_crop_that_adds_black_edges_is_said_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = ["--pre-size", "6", "--img-size", "8", *STEPS[4:]]
    arguments = ["fit", str(place), *network(place), *swapped, "--output", str(tmp_path / "edges.safetensors")]
    folders(tmp_path / "images", {"train": 20, "val": 20})
    evaluating = ["eval", str(tmp_path / "images"), *network(place), *swapped, "--detectors", "msp"]
    for command in (arguments, [*evaluating, "--output", str(tmp_path / "results")]):
        main(command)
        said = [line for line in capsys.readouterr().err.splitlines() if "black edges" in line]
        assert [line.partition(", so")[0] for line in said] == ["preprocessing: pre_size 6 is below img_size 8"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OODDetector.load(tmp_path / "edges.safetensors", served.network())


def test_lists_that_leave_out_the_last_class(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        paths = [(label, path) for label, name in enumerate(NAMES[:-1]) for path in (place / split / name).iterdir()]
        (tmp_path / split).write_text("".join(f"{path.relative_to(place)} {label}\n" for label, path in paths))
    lists = [str(tmp_path / "train"), "--val", str(tmp_path / "val"), "--data-root", str(place)]
    arguments = ["fit", *lists, *network(place), *STEPS, "--output", str(tmp_path / "d.safetensors")]
    said = error_of(capsys, arguments)
    assert "a network of 3 classes was made, as no label in the lists is above 2: if there are more, name them" in said
    assert main([*arguments, "--class-names", *NAMES]) == 0
    assert read(tmp_path / "d.safetensors").class_names == NAMES


@pytest.mark.parametrize("given", [".", "s0/best.ckpt"])
def test_a_network_that_train_made_needs_no_net(
    given: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"width": 8, "depth": 1, "image_size": 8}
    (tmp_path / "training.json").write_text(json.dumps({"network": "mlp", "network_arguments": arguments}))
    save_checkpoint(build_named("test", "mlp", len(NAMES), arguments), tmp_path / "s0" / "best.ckpt")
    monkeypatch.chdir(tmp_path)
    trained = ["--ckpt-path", given, "--device", "cpu"]
    assert main(["fit", str(place), *trained, *STEPS, "--output", "d.safetensors"]) == 0
    scoring = ["score", str(place / "mixed"), "--detector", "d.safetensors", *trained]
    assert main([*scoring, "--csv", "s.csv"]) == 0
    assert len(table(tmp_path / "s.csv")) == MIXED
    assert main(["diagnose", str(place), *trained, *STEPS, "--output", "results"]) == 0
    shutil.copytree(tmp_path / "s0", tmp_path / "s1")
    if given == ".":
        assert "has 2 networks, and a detector belongs to one" in error_of(capsys, [*scoring, "--csv", "t.csv"])


# -------------------------------------------------------------------- score


def test_scores_are_the_detectors(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(score(place, "--csv", str(tmp_path / "s.csv"))) == 0
    assert f"{MIXED} images scored" in capsys.readouterr().err
    rows = table(tmp_path / "s.csv")
    assert list(rows[0]) == list(COLUMNS)
    found = {row["file"]: row for row in rows}
    detector = OODDetector.load(place / "d.safetensors", served.network())
    expected = detector.predict(place / "mixed")
    for index, path in enumerate(sorted((place / "mixed").iterdir())):
        row = found[path.name]
        assert float(row["score"]) == pytest.approx(float(expected.scores[index]), rel=1e-4, abs=1e-4)
        assert row["class"] == expected.classes[index]
        assert row["verdict"] == ("OOD" if expected.is_ood[index] else "ID")
        assert float(row["p_value"]) == pytest.approx(float(expected.p_values[index]), abs=0.02)
    verdicts = [row["verdict"] for row in rows]
    assert verdicts.count("OOD") > 0.4 * MIXED


def test_lines_of_json_standard_output_a_list_and_one_image(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(score(place, "--jsonl", str(tmp_path / "s.jsonl"))) == 0
    by_json = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(by_json) == MIXED
    (tmp_path / "list.txt").write_text("mixed/id_000.png 3\nmixed/ood_001.png\n", encoding="utf-8")
    capsys.readouterr()
    assert (
        main(
            [
                *score(place, "--data-root", str(place))[:1],
                str(tmp_path / "list.txt"),
                *score(place)[2:],
                "--data-root",
                str(place),
            ]
        )
        == 0
    )
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [line["file"] for line in lines] == ["mixed/id_000.png", "mixed/ood_001.png"]
    assert main(score(place, images="mixed/id_000.png")) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("id_000.png,")
    found = {row["file"]: row["score"] for row in by_json}
    assert float(lines[0]["score"]) == pytest.approx(found["id_000.png"], rel=1e-4, abs=1e-4)


def test_standard_output_holds_rows_alone(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said of a network in another precision, of its checkpoint, and by its file, stood before the header."""
    (tmp_path / "net.py").write_text(
        f"print('built')\n{served.NETWORK}\ndef half(num_classes=4):\n    return make().bfloat16()"
    )
    weights = {f"module.{name}": weight.bfloat16() for name, weight in served.network().state_dict().items()}
    torch.save({"ema": weights, "model": served.network().state_dict()}, tmp_path / "net.pt")
    capsys.readouterr()
    arguments = ["score", str(place / "mixed"), "--detector", str(place / "d.safetensors")]
    assert main([*arguments, *network(tmp_path, factory="half")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == ",".join(COLUMNS)
    assert len(out.splitlines()) == MIXED + 1
    assert "built\n" in err
    assert "was fitted on a network in float32, this one is in bfloat16" in err


def test_images_that_cannot_be_scored_get_a_row_and_exit_code_1(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    (images / "deep" / "er").mkdir(parents=True)
    for index in range(5):
        (images / f"{index}.png").write_bytes((place / "mixed" / "id_000.png").read_bytes())
    (images / "2.png").write_bytes(b"no image")
    (images / "broken\n.png").write_bytes(b"no image")
    (images / "deep" / "er" / 'a,"b\n.png').write_bytes((place / "mixed" / "id_000.png").read_bytes())
    (images / "notes.txt").write_text("no image either")
    output = tmp_path / "s.csv"
    arguments = [*score(place)[:1], str(images), *score(place)[2:], "--csv", str(output), "--batch-size", "3"]
    assert main(arguments) == 1
    rows = {row["file"]: row for row in table(output)}
    assert len(rows) == 7
    assert "cannot be decoded" in rows["2.png"]["error"]
    assert rows["2.png"]["score"] == rows["2.png"]["verdict"] == ""
    assert rows['deep/er/a,"b\\n.png']["error"] == ""  # no line of the file is broken in two
    assert "broken .png" in rows["broken\\n.png"]["error"]
    assert len(output.read_text().splitlines()) == 8
    for _ in range(2):  # the rows of images that could not be read are still there
        capsys.readouterr()
        assert main(arguments) == 1
        said = "0 images scored: 0 OOD, 0 could not be read; 7 had their rows before, 2 of them without a score"
        assert said in capsys.readouterr().err
        assert len(table(output)) == 7
    in_json = [*arguments[:-4], "--jsonl", str(tmp_path / "s.jsonl")]
    assert [main(in_json), main(in_json)] == [1, 1]
    assert "7 had their rows before, 2 of them without a score" in capsys.readouterr().err


@pytest.mark.parametrize("failure", ["network", "weights", "disk", "emptied"])
def test_what_is_no_fault_of_the_images_ends_the_run_and_is_not_in_their_rows(failure: str, tmp_path: Path) -> None:
    folders(tmp_path, {"mixed": 12})
    detector, model = served.fitted()
    images, output = tmp_path / "mixed", tmp_path / "s.jsonl"
    names = sorted(path.name for path in images.iterdir())
    batches = 0

    def fail(*_: Any) -> None:
        nonlocal batches
        batches += 1
        if batches == 2 and failure == "network":
            raise RuntimeError("the GPU is lost")
        if failure == "weights":
            with torch.no_grad():
                model[0].bias.add_(1)
        elif batches == 1 and failure in ("disk", "emptied"):
            images.rename(tmp_path / "away")
            if failure == "emptied":
                images.mkdir()

    def run(log: ScoreLog) -> Any:
        return score_files(detector, images, iter(names), log, batch_size=3, shown=False)

    hook = model.register_forward_pre_hook(fail)
    said = {"network": "image '.*png' and those .*the GPU is lost", "weights": "with other weights"}
    with ScoreLog(output, "jsonl", {}) as log, pytest.raises(PluginError, match=said.get(failure, "no longer there")):
        run(log)
    hook.remove()
    before = output.read_bytes()
    assert 0 < before.count(b"\n") < 12
    if failure in ("disk", "emptied"):
        if failure == "emptied":
            images.rmdir()
        (tmp_path / "away").rename(images)
    elif failure == "weights":
        with torch.no_grad():
            model[0].bias.copy_(served.network()[0].bias)
    with ScoreLog(output, "jsonl", {}) as log:
        run(log)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert output.read_bytes().startswith(before)
    assert [row["file"] for row in rows] == names
    assert not any(row["error"] for row in rows)


def test_a_score_that_is_no_number_is_in_no_row(tmp_path: Path) -> None:
    """JSON has no NaN and no infinity."""
    folders(tmp_path, {"mixed": 4})
    detector, _ = served.fitted()
    scores = iter([[1.0, float("nan"), float("inf"), -float("inf")]])
    detector.fitted.detector.score = lambda features, logits: torch.tensor(next(scores))  # type: ignore[method-assign]
    with ScoreLog(tmp_path / "s.jsonl", "jsonl", {}) as log:
        counts = score_files(detector, tmp_path / "mixed", image_names(tmp_path / "mixed"), log, shown=False)
    text = (tmp_path / "s.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["score"] for row in rows] == [1.0, None, None, None]
    assert ["its score is" in row["error"] for row in rows] == [False, True, True, True]
    assert counts.unreadable == 3


def test_a_killed_run_goes_on_without_loss_or_repetition(place: Path, tmp_path: Path) -> None:
    """Killed in the middle, whatever it was writing; then once more with half a row at the end."""
    output = tmp_path / "s.csv"
    arguments = [sys.executable, "-m", "nci_plugin", *score(place, "--csv", str(output), "--batch-size", "2")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if output.exists() and output.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with output.open("ab") as file:
        file.write(b"id_0")
    assert main(score(place, "--csv", str(output), "--batch-size", "2")) == 0
    names = [row["file"] for row in table(output)]
    assert sorted(names) == sorted(path.name for path in (place / "mixed").iterdir())
    assert all(row["verdict"] in ("ID", "OOD") for row in table(output))


def test_a_file_cut_at_every_byte_is_completed(place: Path, tmp_path: Path) -> None:
    detector = OODDetector.load(place / "d.safetensors", served.network())
    names = ["id_000.png", "ood_001.png", "id_002.png"]
    for format in ("csv", "jsonl"):
        whole = tmp_path / f"whole.{format}"
        with ScoreLog(whole, format, {"run": 1}) as log:
            score_files(detector, place / "mixed", names, log, shown=False)
        data = whole.read_bytes()
        for cut in range(1, len(data), 7):
            path = tmp_path / f"{cut}.{format}"
            path.write_bytes(data[:cut])
            (tmp_path / f"{cut}.{format}.run.json").write_text('{"run": 1}')
            with ScoreLog(path, format, {"run": 1}) as log:
                score_files(detector, place / "mixed", names, log, shown=False)
            rows = table(path) if format == "csv" else list(map(json.loads, path.read_text().splitlines()))
            assert [row["file"] for row in rows] == names, cut


def test_rows_of_another_run_are_refused_and_left_alone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.csv"
    assert main(score(place, "--csv", str(output))) == 0
    before = output.read_bytes()
    assert "another run (tpr differs)" in error_of(capsys, score(place, "--csv", str(output), "--tpr", "0.9"))
    assert "another run (images differs)" in error_of(capsys, score(place, "--csv", str(output), images="val"))
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    assert "choose another file" in error_of(capsys, score(place, "--csv", str(tmp_path / "mine.csv")))
    assert not (tmp_path / "mine.csv.run.json").exists()
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
    assert output.read_bytes() == before


def test_names_of_files_stay_apart_and_a_list_names_an_image_once(place: Path, tmp_path: Path) -> None:
    """A line break and the letters that stand for it are two names, in a run and in the one that goes on."""
    data = (place / "mixed" / "id_000.png").read_bytes()
    names = ["a\nb.png", "a\\nb.png", "ä ü.png", os.fsdecode(b"\xff.png"), "日本.png"]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(data)
    arguments = [*score(place)[:1], str(tmp_path / "in"), *score(place)[2:], "--csv", str(tmp_path / "s.csv")]
    assert main(arguments) == 0
    written = {row["file"] for row in table(tmp_path / "s.csv")}
    assert written == {"a\\nb.png", "a\\\\nb.png", "ä ü.png", "\\udcff.png", "日本.png"}
    assert main(arguments) == 0
    assert len(table(tmp_path / "s.csv")) == len(names)
    (tmp_path / "list.txt").write_text("ä ü.png\n日本.png 1\nä ü.png 3\n", encoding="utf-8")
    again = [*score(place)[:1], str(tmp_path / "list.txt"), *score(place)[2:], "--data-root", str(tmp_path / "in")]
    assert main([*again, "--csv", str(tmp_path / "l.csv")]) == 0
    assert [row["file"] for row in table(tmp_path / "l.csv")] == ["ä ü.png", "日本.png"]


def test_a_list_is_read_as_fit_reads_it(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tabs before a label, a byte order mark, and ends of lines; a path that leaves the directory is refused."""
    path, written = tmp_path / "list.txt", tmp_path / "s.csv"
    arguments = [*score(place)[:1], str(path), *score(place)[2:], "--data-root", str(place), "--csv", str(written)]
    path.write_bytes(b"\xef\xbb\xbfmixed/id_000.png\t3\r\n\nmixed/id_002.png   -1\nmixed\\ood_001.png")
    assert main(arguments) == 0
    assert [row["file"] for row in table(written)] == ["mixed/id_000.png", "mixed/id_002.png", "mixed/ood_001.png"]
    written.unlink()
    for outside in ("../mixed/id_000.png", str(place / "mixed" / "id_000.png"), "mixed\\..\\..\\x.png 1"):
        path.write_text(f"mixed/id_000.png\n{outside}\n", encoding="utf-8")
        said = error_of(capsys, arguments)
        assert f"image list '{path}' line 2: the path must stay inside '{place}" in said
        assert not written.exists()
    path.write_bytes((place / "mixed" / "id_000.png").read_bytes())
    assert "not a text file" in error_of(capsys, arguments)


def test_a_list_under_another_directory_and_a_row_that_is_none_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("id_000.png\n")
    arguments = [*score(place)[:1], str(tmp_path / "list.txt"), *score(place)[2:]]
    for format in ("csv", "jsonl"):
        output = [f"--{format}", str(tmp_path / f"s.{format}")]
        assert main([*arguments, *output, "--data-root", str(place / "mixed")]) == 0
        assert "another run (data_root differs)" in error_of(capsys, [*arguments, *output, "--data-root", str(place)])
        with (tmp_path / f"s.{format}").open("a") as file:
            file.write("\n")
        said = error_of(capsys, [*arguments, *output, "--data-root", str(place / "mixed")])
        assert "is no row" in said
    assert "is no file" in error_of(capsys, [*arguments, "--csv", str(tmp_path)])


def test_other_validation_images_beside_a_folder_that_has_some(place: Path, tmp_path: Path) -> None:
    folders(tmp_path, {"other": 40})
    output = ["--val", str(tmp_path / "other"), "--output", str(tmp_path / "d.safetensors")]
    assert main([*fit(place)[:-2], *output]) == 0
    fitted = OODDetector.load(tmp_path / "d.safetensors", served.network()).fitted
    assert fitted.rows == {"train": 120, "validation_fit": 0, "calibration": 40}


def test_an_input_is_not_written_over(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "net.safetensors"
    safetensors.torch.save_file(served.network().state_dict(), weights)
    before = weights.read_bytes()
    arguments = ["fit", str(place), "--net", f"{place / 'net.py'}:make", "--ckpt-path", str(weights), *STEPS]
    assert "is an input of this command" in error_of(capsys, [*arguments, "--output", str(weights)])
    assert weights.read_bytes() == before


def test_who_comes_second_changes_nothing_of_the_first(tmp_path: Path) -> None:
    """Neither before nor after the first has written its header."""
    with ScoreLog(tmp_path / "s.csv", "csv", {"run": 1}):
        before = (tmp_path / "s.csv").read_bytes(), (tmp_path / "s.csv.run.json").read_bytes()
        with pytest.raises(PluginError, match="another command is at work there"):
            ScoreLog(tmp_path / "s.csv", "csv", {"run": 2}).__enter__()
        assert ((tmp_path / "s.csv").read_bytes(), (tmp_path / "s.csv.run.json").read_bytes()) == before
    empty = tmp_path / "e.csv"
    empty.touch()
    with holding(tmp_path / ".e.csv.lock", empty), pytest.raises(PluginError, match="another command is at work"):
        ScoreLog(empty, "csv", {"run": 2}).__enter__()
    assert not (tmp_path / "e.csv.run.json").exists()


def test_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with ScoreLog(tmp_path / "s.csv", "csv", {}):
        pass
    assert (tmp_path / "s.csv").read_bytes().startswith(b"file,class")
    assert caplog.messages == [
        f"{tmp_path / 's.csv'}: not locked (No locks available); start no second command that writes there"
    ]


def test_two_commands_on_one_file(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "s.csv")
    for name in ("s.csv", "link.csv"):
        with ScoreLog(tmp_path / "s.csv", "csv", {}), pytest.raises(PluginError, match="another command is at work"):
            ScoreLog(tmp_path / name, "csv", {}).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "s.csv", "s.csv.run.json"]


def test_another_network_is_refused_by_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = score(place)
    arguments[arguments.index(str(place / "net.pt"))] = str(place / "other.pt")
    assert "was fitted on Sequential" in error_of(capsys, arguments)
    (place / "none").mkdir()
    before = sorted(place.rglob("*"))
    for images, message in (("none", "holds no image"), ("mixed", "was fitted on Sequential")):
        said = error_of(
            capsys, [*arguments[:1], str(place / images), *arguments[2:], "--csv", str(place / "new" / "s.csv")]
        )
        assert message in said
    assert "holds no image" in error_of(capsys, score(place, images="none"))
    assert sorted(place.rglob("*")) == before
    assert "is not there" in error_of(capsys, score(place, images="no/such"))


def test_names_stream_and_so_does_memory(tmp_path: Path) -> None:
    """The names of a directory are not held: what is known of rows that are there is eight bytes each."""
    for index in range(300):
        (tmp_path / f"{index}.png").touch()
    names = image_names(tmp_path)
    assert next(names).endswith(".png")
    assert sum(1 for _ in names) == 299
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").touch()
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    assert {"deep/er/a.png", "itself.png"} < {*image_names(tmp_path)}
    (tmp_path / "elsewhere").symlink_to(tmp_path / "deep")
    assert {"elsewhere/er/a.png"} < {*image_names(tmp_path)}
    (tmp_path / "deep" / "er" / "loop").symlink_to(tmp_path)
    seen: list[str] = []
    with pytest.raises(PluginError, match="the link '.*er/loop' leads back to a folder that it is in; take it away"):
        seen.extend(image_names(tmp_path))
    assert not any("loop" in name for name in seen)


def test_a_folder_that_is_removed_meanwhile_holds_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if isinstance(path, Path) and path.name == "a":
            shutil.rmtree(path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(image_names(tmp_path)) == ["b/1.png"]
    with pytest.raises(FileNotFoundError):
        list(image_names(tmp_path / "none"))


def test_a_hundred_thousand_rows_resume_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    count = 100_000
    with path.open("w") as file:
        file.write(",".join(COLUMNS) + "\n")
        file.writelines(f"{index}.png,a,0.5,0.5,ID,\n" for index in range(count))
    (tmp_path / "s.csv.run.json").write_text("{}")
    with ScoreLog(path, "csv", {}) as log:
        assert log.rows == count
        assert log._done.nbytes == 8 * count
        assert all(f"{index}.png" in log for index in range(0, count, 97))
        assert f"{count}.png" not in log


# -------------------------------------------------------------------- export and drift


@pytest.mark.skipif(not hasattr(getattr(torch, "export", None), "Dim"), reason="this torch has no torch.export.Dim")
def test_export_writes_beside_the_detector(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(place / "d.safetensors"), *network(place), "--images", str(place / "mixed")]
    assert main([*arguments, "--to", "export"]) == 0
    assert "differ from the detector's" in capsys.readouterr().out
    assert (place / "d.pt2").is_file()
    assert "needs at least two images" in error_of(
        capsys, [*arguments[:-1], str(place / "mixed" / "id_000.png"), "--to", "export", "--output", "x.pt2"]
    )


def test_drift_is_seen_where_it_is_and_not_where_it_is_not(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("mixed", "val"):
        assert main(score(place, "--csv", str(tmp_path / f"{split}.csv"), images=split)) == 0
    capsys.readouterr()
    base = ["--detector", str(place / "d.safetensors")]
    assert main(["drift", str(tmp_path / "mixed.csv"), *base, "--figure", str(tmp_path / "d.png")]) == 1
    assert capsys.readouterr().out.splitlines()[0].endswith(": drift")
    assert Image.open(tmp_path / "d.png").size[0] > 100
    assert main(["drift", str(tmp_path / "val.csv"), *base, "--last", "50"]) == 0
    assert "50 scores against 60 calibration scores" in capsys.readouterr().out
    assert "cannot be read (its rows have no score)" in error_of(capsys, ["drift", str(place / "net.py"), *base])
    assert "cannot be read (No such file or directory)" in error_of(capsys, ["drift", "no.csv", *base])
    assert main(fit(place, "--detectors", "msp", output="msp.safetensors")) == 0
    other = ["drift", str(tmp_path / "val.csv"), "--detector", str(place / "msp.safetensors")]
    assert "were given by another detector file" in error_of(capsys, other)
    (tmp_path / "val.csv.run.json").unlink()  # a log of one's own service
    assert main(["drift", str(tmp_path / "val.csv"), *base]) == 0


def test_drift_alarms_at_its_level_without_drift() -> None:
    """Over calibrations and windows together: no more than 5 %, and the counts are in their interval 95 %."""
    from nci_plugin.deploy.calibration import Calibration

    generator = np.random.default_rng(0)
    alarms, inside = 0, 0
    draws = 1000
    for _ in range(draws):
        calibration = Calibration.of(generator.normal(size=150), np.zeros(150, dtype=int))
        found = drift(calibration, generator.normal(size=100), 0.9)
        alarms += found.drifted
        inside += found.expected[0] <= found.rejected <= found.expected[1]
    assert alarms / draws < 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert inside / draws > 0.935
    shifted = drift(calibration, generator.normal(size=100) - 1, 0.9)
    assert shifted.drifted
    assert shifted.low <= shifted.share <= shifted.high


def test_a_figure_of_another_kind_is_told_all_that_there_are(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["drift", str(tmp_path / "s.csv"), "--detector", str(place / "d.safetensors"), "--figure", "x.pdf"]
    assert "--figure: must be a file named .png or .svg, got 'x.pdf'; name another" in error_of(capsys, arguments)


def test_scores_are_read_back_as_they_were(place: Path, tmp_path: Path) -> None:
    detector = OODDetector.load(place / "d.safetensors", served.network())
    for format, name in (("csv", "s.csv"), ("jsonl", "s.jsonl"), ("jsonl", "s.log"), ("csv", "csv.jsonl")):
        path = tmp_path / name
        with ScoreLog(path, format, {}) as log:
            score_files(detector, place / "mixed", ["id_000.png", "id_002.png"], log, shown=False)
        read = read_scores(path).astype(np.float32)
        pair = [place / "mixed" / "id_000.png", place / "mixed" / "id_002.png"]
        assert np.array_equal(read, detector.score(pair).numpy())
        assert np.array_equal(read_scores(path, last=1).astype(np.float32), read[1:])
        whole = path.read_bytes()
        for cut in (whole[:-1], whole[: whole.rindex(b"0.") + 2]):  # a number that lost its last digits is another
            path.write_bytes(cut)
            assert np.array_equal(read_scores(path).astype(np.float32), read[:1])
    with pytest.raises(PluginError, match="finite scores"):
        detector.drift([])
    for scores in ([1.0, float("nan")], [1e300]):
        with pytest.raises(PluginError, match="finite scores"):
            detector.drift(scores)
    with pytest.raises(PluginError, match="drift: scores: must be numbers, got str of 'scores.csv'"):
        detector.drift("scores.csv")
    with pytest.raises(PluginError, match="drift: scores: must be a dense tensor, got one that is sparse"):
        detector.drift(torch.ones(3).to_sparse())
    with torch.enable_grad():
        graphed = detector.score(pair).requires_grad_()
    assert detector.drift(graphed).n == detector.drift(detector.predict(pair)).n == 2


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_directories_in_the_place_of_files_are_one_line(
    path: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(capsys, ["drift", path, "--detector", str(place / "d.safetensors")])
    assert f"scores '{path}': cannot be read (Is a directory)" in said
    arguments = [*network(place), "--to", "export", "--images", str(place / "mixed")]
    assert f"detector file '{path}': Is a directory" in error_of(capsys, ["export", path, *arguments])


def test_no_image_file_without_a_preprocessing(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: Path) -> None:
    detector: Any = OODDetector(progress=False).fit(served.network(), served.rows(120, 1), served.rows(60, 2))
    detector.save(tmp_path / "d.safetensors")
    arguments = ["score", str(place / "mixed"), "--detector", str(tmp_path / "d.safetensors"), *network(place)]
    assert "was fitted on tensors" in error_of(capsys, arguments)


# -------------------------------------------------------------------- other commands on a folder


def test_explain_diagnose_and_eval_take_a_folder(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path, {"train": 60, "val": 40, "test": 40})
    (tmp_path / "near" / "noise").mkdir(parents=True)
    for index, image in enumerate(served.rows(30, 4, ood=True).tensors[0]):
        pixels = ((image * 0.25 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "near" / "noise" / f"{index}.png")
    flags = [*network(place), *STEPS, "--output", str(tmp_path / "out")]
    assert main(["explain", str(place / "mixed" / "id_000.png"), str(tmp_path), *flags]) == 0
    text = capsys.readouterr().out
    assert "of 40 ID validation samples" in text
    assert re.search(f"predicted class: ({'|'.join(NAMES)}) ", text)
    assert main(["diagnose", str(tmp_path), *flags]) == 0
    assert "near" in capsys.readouterr().out
    (stored,) = read_diagnoses(tmp_path / "out")
    assert [row[0] for row in class_table(stored.name, stored.record).rows[1:]] == list(NAMES)
    labels = {text.get_text() for axis in duality_figure(stored).axes for text in axis.get_xticklabels()}
    assert labels >= set(NAMES)
    flags[-1] = str(tmp_path / "evaluated")
    assert main(["eval", str(tmp_path), "--detectors", "nci_plus", "msp", *flags]) == 0
    assert "noise" in capsys.readouterr().out
    shutil.copy(tmp_path / "near" / "noise" / "0.png", tmp_path / "near" / "loose.PNG")
    assert "holds images of no OOD set, 'loose.PNG' for one of 1" in error_of(capsys, ["eval", str(tmp_path), *flags])
    (tmp_path / "near" / "loose.PNG").unlink()
    shutil.rmtree(tmp_path / "test")
    flags[-1] = str(tmp_path / "without test")
    assert main(["eval", str(tmp_path), "--detectors", "nci_gated", "msp", *flags]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "not scored: nci_gated: detector 'nci_gated': calibrates on" in text
    assert "test on others (in a folder, those of test/)" in text
    without = [flag for flag in flags if flag not in STEPS]
    assert "pass --mean and --std" in error_of(capsys, ["eval", str(tmp_path), "--detectors", "msp", *without])
    assert "needs train/ and val/ or test/" in error_of(capsys, ["eval", str(tmp_path / "near"), *flags])
