"""The command line and `evaluate` from end to end, on a tiny benchmark of real image files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import BATCH, batches, command, passes_after_first, read_rows, small_knn
from PIL import Image
from sklearn.metrics import auc, precision_recall_curve, roc_curve
from tiny import COUNTS, ID_SPLITS, Tiny, draw_nothing, stored, tree
from torch.utils.data import Dataset

from nci_plugin import Benchmark, Features, Preprocessing, evaluate
from nci_plugin.adapters import pytorch_ood
from nci_plugin.adapters.openood import methods
from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.config import benchmark_names, config_directory, detector_names, load_detector
from nci_plugin.evaluation.evaluate import Evaluation

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"FPR@95": "fpr95", "AUROC": "auroc", "AUPR_IN": "aupr_in", "AUPR_OUT": "aupr_out", "ACC": "acc"}
ROWS = ["near", "near2", "nearood", "far", "farood"]
GROUPS = {"nearood": ["near", "near2"], "farood": ["far"]}
NAMES = ["msp", "nci", "neco", "pytorch_ood:entropy", "pytorch_ood:mahalanobis", "knn"]
FILE_NAMES = {name: name.replace(":", "_") for name in NAMES}
SPLITS = {
    "id/train": "train",
    "id/val": "val",
    "id/test": "test",
    "ood/val": "oodval",
    "csid/csid": "csid",
    "near/near": "near",
    "near/near2": "near2",
    "far/far": "far",
}
IMAGES = sum(COUNTS.values())


@dataclass
class Run:
    tiny: Tiny
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.tiny.output)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the wait for the disk is not the subject
    return Tiny(tmp_path)


@pytest.fixture(scope="module", params=[1, 3], ids=["one network", "three seeds"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    tiny = Tiny(tmp_path_factory.mktemp("tiny"), seeds=request.param)
    checkpoint = tiny.checkpoint if request.param == 1 else tiny.checkpoints
    names = [small_knn(tiny) if name == "knn" else name for name in NAMES]
    return Run(tiny, *command(tiny.eval(*names, ckpt_path=checkpoint)))


def seeds_of(run: Run) -> list[str]:
    return list(dict.fromkeys(row["seed"] for row in run.rows))


# -------------------------------------------------------------------- what a run leaves


def test_run_is_quiet_and_done(run: Run) -> None:
    assert (run.code, run.err) == (0, "")
    assert (run.tiny.output / "auroc.png").read_bytes().startswith(b"\x89PNG")
    assert f"written to {run.tiny.output}" in run.out
    for name in NAMES:
        assert name in run.out


def test_files_of_a_run(run: Run) -> None:
    made = {"features", "extraction_seconds"}
    files = {path for path in tree(run.tiny.output) if not made & set(Path(path).parts)}
    folders = [seed for seed in seeds_of(run) if seed]
    assert folders == ([] if seeds_of(run) == [""] else ["s0", "s1", "s2"])
    expected = {"results.jsonl", "auroc.png", "ood", "fsood", *folders}
    expected |= {f"{setting}/{name}.csv" for setting in ("ood", "fsood") for name in FILE_NAMES.values()}
    for folder in folders or ["."]:
        expected |= {os.path.normpath(f"{folder}/scores/{name}.npz") for name in [*FILE_NAMES.values(), "predictions"]}
        expected.add(os.path.normpath(f"{folder}/scores"))
    assert files == expected


@pytest.mark.parametrize("setting", ["ood", "fsood"])
@pytest.mark.parametrize("name", NAMES)
def test_csv_as_openood_formats_it(run: Run, name: str, setting: str) -> None:
    """eval_ood.py: mean and population standard deviation over the seeds' tables, two decimals each."""
    tables = []
    for seed in seeds_of(run):
        rows = [r for r in run.rows if (r["detector"], r["setting"], r["seed"]) == (name, setting, seed)]
        assert [row["dataset"] for row in rows] == ROWS
        tables.append([[row[field] for field in COLUMNS.values()] for row in rows])
    mean, std = np.mean(tables, axis=0), np.std(tables, axis=0)
    one = len(tables) == 1
    cells = [[f"{m:.2f}" if one else f"{m:.2f} ± {s:.2f}" for m, s in zip(*row)] for row in zip(mean, std)]
    expected = "".join(",".join([row, *values]) + "\n" for row, values in zip(["", *ROWS], [list(COLUMNS), *cells]))
    assert (run.tiny.output / setting / f"{FILE_NAMES[name]}.csv").read_bytes().decode("utf-8") == expected


@pytest.mark.parametrize("setting", ["ood", "fsood"])
@pytest.mark.parametrize("name", NAMES)
def test_metrics_from_the_stored_scores(run: Run, name: str, setting: str) -> None:
    id_splits = ["id/test", "csid/csid"] if setting == "fsood" else ["id/test"]
    for seed in seeds_of(run):
        folder = run.tiny.output / seed / "scores"
        with np.load(folder / f"{FILE_NAMES[name]}.npz") as scores:
            assert set(scores.files) == SPLITS.keys() - {"id/train", "id/val", "ood/val"}
            id_scores = np.concatenate([scores[split] for split in id_splits])
            metrics = {
                data_set: sklearn_metrics(id_scores, scores[split])
                for split, data_set in SPLITS.items()
                if split.startswith(("near/", "far/"))
            }
        for group, names in GROUPS.items():
            metrics[group] = np.mean([metrics[data_set] for data_set in names], axis=0)
        with np.load(folder / "predictions.npz") as answers:
            right = [answers[f"{split}/predictions"] == answers[f"{split}/labels"] for split in id_splits]
        accuracy = 100 * np.concatenate(right).mean()
        rows = [r for r in run.rows if (r["detector"], r["setting"], r["seed"]) == (name, setting, seed)]
        assert len(rows) == len(ROWS)
        for row in rows:
            stated = [row[field] for field in COLUMNS.values()]
            np.testing.assert_allclose(stated, [*metrics[row["dataset"]], accuracy], rtol=0, atol=1e-9)
            assert row["n_id"] == len(id_scores)
            assert row["n_ood"] == sum(COUNTS[data_set] for data_set in GROUPS.get(row["dataset"], [row["dataset"]]))


def sklearn_metrics(id_scores: np.ndarray, ood_scores: np.ndarray) -> list[float]:
    """FPR at 95 % of the OOD samples found, AUROC, AUPR with ID and with OOD as the positive class; in percent."""
    scores = np.concatenate([id_scores, ood_scores]).astype(float)
    is_ood = np.concatenate([np.zeros(len(id_scores)), np.ones(len(ood_scores))])
    fpr, tpr, _ = roc_curve(is_ood, -scores)
    precision_in, recall_in, _ = precision_recall_curve(1 - is_ood, scores)
    precision_out, recall_out, _ = precision_recall_curve(is_ood, -scores)
    areas = [auc(fpr, tpr), auc(recall_in, precision_in), auc(recall_out, precision_out)]
    return [100 * value for value in [fpr[tpr >= 0.95][0], *areas]]


def test_scores_from_the_images(run: Run) -> None:
    """MSP, decoded and computed here, in the order of the list."""
    seed = seeds_of(run)[-1]
    network = run.tiny.network()
    checkpoint = run.tiny.checkpoints / seed / "best.ckpt" if seed else run.tiny.checkpoint
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    with np.load(run.tiny.output / seed / "scores" / "msp.npz") as scores:
        for split in scores.files:
            with torch.no_grad():
                expected = torch.softmax(network(images_of(run.tiny, SPLITS[split])), 1).amax(1)
            np.testing.assert_allclose(scores[split], expected.numpy(), rtol=1e-5)


def images_of(tiny: Tiny, split: str) -> torch.Tensor:
    arrays = []
    for index in range(COUNTS[split]):
        with Image.open(tiny.image(split, index)) as image:
            arrays.append(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)
    return (torch.from_numpy(np.stack(arrays)) - 0.5) / 0.5


def test_default_output_directory(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.root)
    tiny.save_checkpoint(tiny.checkpoints / "s0" / "best.ckpt", seed=0)
    for checkpoint, name in ((tiny.checkpoint, "tiny_tiny"), (tiny.checkpoints, "tiny_checkpoints")):
        assert command(tiny.eval(output=None, ckpt_path=checkpoint))[0] == 0
        assert (tiny.root / "results" / name / "ood" / "msp.csv").is_file()
    assert (tiny.root / "results" / "tiny_checkpoints" / "s0" / "scores" / "msp.npz").is_file()
    assert " ± 0.00" in (tiny.root / "results" / "tiny_checkpoints" / "ood" / "msp.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("flags", [(), ("--metrics", "aupr_in")])
def test_one_seed_has_no_deviation(tiny: Tiny, flags: tuple[str, ...]) -> None:
    tiny.save_checkpoint(tiny.checkpoints / "s0" / "best.ckpt", seed=0)
    code, output, _ = command([*tiny.eval("msp", ckpt_path=tiny.checkpoints), *flags])
    assert code == 0
    assert "in percent, one network" in " ".join(output.split())
    assert "+-" not in output


def test_every_detector_in_one_run(tiny: Tiny) -> None:
    """12 training images are too few for some, which are named with their reason; the exit code says so."""
    code, out, err = command(tiny.eval("all"))
    scored = {row["detector"] for row in read_rows(tiny.output)}
    failed = {line.split(": ")[1] for line in out.splitlines() if line.startswith("not scored: ")}
    assert scored | failed == set(detector_names())
    assert not scored & failed
    assert {name for name in scored if name.startswith(pytorch_ood.PREFIX)}
    assert failed >= {"knn", "knn_l1"}
    assert (code, err) == (1, "")
    for name in failed:
        assert not list(tiny.output.rglob(f"{name.replace(':', '_')}.*"))


def test_no_detector_can_be_scored(tiny: Tiny) -> None:
    """The files that are said to be written are there."""
    code, out, _ = command(tiny.eval("knn"))
    assert code == 1
    assert "not scored: knn: " in out
    written = next(line for line in out.splitlines() if line.startswith("written to"))
    for file in ("results.jsonl", "auroc.png", "ood/*.csv", "fsood/*.csv", "scores/*.npz"):
        assert (file in written) == bool(list(tiny.output.glob(file))), file


def test_detectors_of_an_earlier_run_stay(tiny: Tiny) -> None:
    assert command(tiny.eval("msp"))[0] == 0
    before = tree(tiny.output)
    assert command(tiny.eval("mls"))[0] == 0
    after = tree(tiny.output)
    assert {row["detector"] for row in read_rows(tiny.output)} == {"msp", "mls"}
    unchanged = [path for path in before if path not in ("results.jsonl", "auroc.png")]
    assert {path: after[path] for path in unchanged} == {path: before[path] for path in unchanged}
    assert command(tiny.eval("msp"))[0] == 0
    assert len(read_rows(tiny.output)) == 2 * 2 * len(ROWS)


def test_results_are_read_again_whatever_the_paths_hold(tiny: Tiny) -> None:
    path = tiny.root / "line\u2028separator é.ckpt"
    path.write_bytes(tiny.checkpoint.read_bytes())
    for _ in range(2):
        assert command(tiny.eval(ckpt_path=path))[::2] == (0, "")


def test_no_covariate_shifted_set(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path, csid=False)
    code, out, err = command(tiny.eval("msp", "nci"))
    assert (code, err) == (0, "")
    assert "full-spectrum OOD: no table, the benchmark has no covariate-shifted set (csid)" in out.splitlines()
    assert not (tiny.output / "fsood").exists()
    assert {row["setting"] for row in read_rows(tiny.output)} == {"ood"}


# -------------------------------------------------------------------- passes


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        del row["seconds"], row["provenance"]["extraction_seconds"], row["checksum"]
    return rows


def test_every_image_passes_once_and_a_second_run_reuses_its_features(tiny: Tiny) -> None:
    arguments = tiny.eval("msp", "nci", small_knn(tiny))
    assert command(arguments)[0] == 0
    everything = batches(*COUNTS)
    assert sum(everything) == IMAGES
    assert passes_after_first(tiny, everything) == everything
    files, scores, rows = stored(tiny.output), tree(tiny.output / "scores"), timeless(read_rows(tiny.output))
    tables = tree(tiny.output / "ood")
    assert command(arguments)[0] == 0
    assert passes_after_first(tiny, []) == []
    assert stored(tiny.output) == files
    assert tree(tiny.output / "scores") == scores
    assert tree(tiny.output / "ood") == tables
    assert timeless(read_rows(tiny.output)) == rows


def test_changed_modification_time(tiny: Tiny) -> None:
    """An image that may be another one passes again; where it is the same, so are the results."""
    assert command(tiny.eval())[0] == 0
    os.utime(tiny.image("near2", 3), ns=(0, 10**18))
    tiny.passes()
    assert command(tiny.eval())[0] == 0
    assert passes_after_first(tiny, batches("near2")) == batches("near2")


def test_other_image_of_the_same_size(tiny: Tiny) -> None:
    """Rows of the new features do not come to stand beside rows of the old ones."""
    path = tiny.image("near2", 3)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(path, "BMP")
    assert command(tiny.eval("msp", "mls"))[0] == 0
    before = (tiny.output / "results.jsonl").read_bytes()
    Image.new("RGB", (8, 8), (200, 20, 90)).save(path, "BMP")
    os.utime(path, ns=(0, 10**18))
    code, _, err = command(tiny.eval("msp"))
    assert code == 2
    assert "holds results of another run (images of 'near/near2' differ)" in err
    assert (tiny.output / "results.jsonl").read_bytes() == before


def test_changed_image(tiny: Tiny) -> None:
    """Results of other data are not mixed; once they are moved away, only the changed split passes again."""
    assert command(tiny.eval())[0] == 0
    tiny.passes()
    with np.load(tiny.output / "scores" / "msp.npz") as scores:
        before = scores["near/near2"]
    tiny.write_image(tiny.image("near2", 3), np.tile(np.arange(8)[:, None, None] * 20, (1, 8, 3)))
    code, _, err = command(tiny.eval())
    assert code == 2
    assert "holds results of another run (images of 'near/near2' differ)" in err
    (tiny.output / "results.jsonl").unlink()
    tiny.passes()
    assert command(tiny.eval())[0] == 0
    assert passes_after_first(tiny, batches("near2")) == batches("near2")
    with np.load(tiny.output / "scores" / "msp.npz") as scores:
        assert np.flatnonzero(scores["near/near2"] != before).tolist() == [3]


def test_changed_label(tiny: Tiny) -> None:
    assert command(tiny.eval())[0] == 0
    (tiny.output / "results.jsonl").unlink()
    tiny.passes()
    tiny.list("csid").write_text(tiny.list("csid").read_text().replace("csid/0.png 0", "csid/0.png 1"))
    assert command(tiny.eval())[0] == 0
    assert passes_after_first(tiny, batches("csid")) == batches("csid")


@pytest.mark.parametrize("change", ["weights", "batch size", "source", "preprocessing"])
def test_changed_network_batch_size_or_preprocessing(tiny: Tiny, change: str) -> None:
    assert command(tiny.eval())[0] == 0
    tiny.passes()
    options: dict[str, Any] = {}
    if change == "weights":
        tiny.save_checkpoint(tiny.root / "other.ckpt", seed=5)
        options = {"ckpt_path": tiny.root / "other.ckpt", "output": tiny.root / "out2"}
    elif change == "batch size":
        options = {"batch_size": 5}
    elif change == "source":
        tiny.net.write_text(tiny.net.read_text().replace(".flatten(1)\n", ".flatten(1)  # as before\n", 1))
        (tiny.output / "results.jsonl").unlink()  # rows of other code; the features stay
    else:
        tiny.config["benchmark"]["preprocessing"]["normalization"] = [[0.4] * 3, [0.5] * 3]
        tiny.save_config()
        options = {"output": tiny.root / "out2"}
    assert command(tiny.eval(**options))[0] == 0
    assert sum(tiny.passes()) >= IMAGES - COUNTS["train"]


def test_detectors_without_fit_leave_the_training_images_alone(tiny: Tiny) -> None:
    assert command(tiny.eval("msp", "mls"))[0] == 0
    expected = batches(*(split for split in COUNTS if split != "train"))
    assert passes_after_first(tiny, expected) == expected
    assert not list(tiny.output.rglob("id.train*"))


def test_detectors_that_fit_on_statistics_store_no_training_features(tiny: Tiny) -> None:
    arguments = tiny.eval("nci", "pscore", "neco", "msp")
    assert command(arguments)[0] == 0
    (folder,) = tiny.output.rglob("id.train-*")
    (file,) = folder.iterdir()
    assert file.name.startswith("statistics-")
    tiny.passes()
    assert command(arguments)[0] == 0
    assert passes_after_first(tiny, []) == []
    assert command(tiny.eval(small_knn(tiny)))[0] == 0
    assert passes_after_first(tiny, batches("train")) == batches("train")


@pytest.mark.parametrize("after", [3, 4, 12])
@pytest.mark.parametrize("training", ["bank", "statistics"])
def test_interrupted_run_goes_on(tiny: Tiny, after: int, training: str) -> None:
    """Interrupted after so many passes; a shard holds one batch here."""
    detectors = ["msp", "nci", small_knn(tiny)] if training == "bank" else ["msp", "nci"]
    assert command(tiny.eval(*detectors, output=tiny.root / "whole"))[0] == 0
    whole = len(tiny.passes())
    stop = tiny.net.parent / "interrupt_after"
    stop.write_text(str(after))
    code, _, err = command(tiny.eval(*detectors))
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (tiny.output / "results.jsonl").exists()
    assert not [path for path in tiny.output.rglob("*") if path.name.startswith(".")]
    done = len(tiny.passes())
    stop.unlink()
    assert command(tiny.eval(*detectors))[0] == 0
    again = len(tiny.passes())
    if training == "bank":  # the pass that was stopped, and those of the first batch, come twice
        assert done + again - whole <= 1 + 3
    assert stored(tiny.output) == stored(tiny.root / "whole")
    assert tree(tiny.output / "scores") == tree(tiny.root / "whole" / "scores")
    assert timeless(read_rows(tiny.output)) == timeless(read_rows(tiny.root / "whole"))


def test_interrupted_between_seeds(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path, seeds=2)
    assert command(tiny.eval(ckpt_path=tiny.checkpoints, output=tiny.root / "whole"))[0] == 0
    passes = len(tiny.passes())
    stop = tiny.net.parent / "interrupt_after"
    stop.write_text(str(passes // 2 + 4))
    assert command(tiny.eval(ckpt_path=tiny.checkpoints))[0] == 130
    assert {row["seed"] for row in read_rows(tiny.output)} == {"s0"}
    stop.unlink()
    assert command(tiny.eval(ckpt_path=tiny.checkpoints))[0] == 0
    assert tree(tiny.output / "ood") == tree(tiny.root / "whole" / "ood")
    assert timeless(read_rows(tiny.output)) == timeless(read_rows(tiny.root / "whole"))


def test_workers_give_the_same_files(tiny: Tiny) -> None:
    for output, number in ((tiny.root / "none", 0), (tiny.root / "some", 2)):
        assert command(tiny.eval("nci", output=output, workers=number))[0] == 0
    assert stored(tiny.root / "some") == stored(tiny.root / "none")


# -------------------------------------------------------------------- the other commands


def test_list() -> None:
    code, out, err = command(["list"])
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if re.match(r"  \S", line)]
    assert {line.split()[0] for line in lines} == {*benchmark_names(), *detector_names(), *pytorch_ood.EXCLUDED}
    assert "  ebo                 Energy             no fit      Liu et al. 2020" in lines


def test_list_as_json() -> None:
    groups = json.loads(command(["list", "--json"])[1])
    assert [entry["name"] for entry in groups["benchmarks"]] == benchmark_names()
    assert {entry["name"] for name in ("detectors", "pytorch_ood") for entry in groups[name]} == set(detector_names())
    (nci,) = (entry for entry in groups["detectors"] if entry["name"] == "nci")
    assert (nci["display"], nci["needs"], nci["year"]) == ("NCI", "statistics", 2025)
    openood = json.loads(command(["list", "--openood", "--json"])[1])["openood"]
    assert {entry["name"] for entry in openood} == set(methods.describe())


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENOOD_ROOT", raising=False)
    monkeypatch.setattr("nci_plugin.cli.doctor.find_checkout", lambda: None)
    code, out, err = command(["doctor"])
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 24
    said = {line.split(None, 1)[0]: line.split(None, 1)[1] for line in out.splitlines() if re.match(r"\S", line)}
    assert said["OpenOOD"].startswith("not found")
    assert said["digits"].startswith("not ready")
    assert f"torch {torch.__version__.split('+')[0]}" in said["libraries"]


def test_doctor_says_what_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Path:
        raise PluginError("OpenOOD in 'there': cannot be imported (ModuleNotFoundError: No module named 'foolbox')")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.cli.doctor.find_checkout", lambda: tmp_path)
    monkeypatch.setattr("nci_plugin.cli.doctor.import_openood", fails)
    code, out, _ = command(["doctor"])
    assert code == 1
    assert "No module named 'foolbox'" in " ".join(out.split())
    assert out.splitlines()[-1] == "does not work: OpenOOD"


def test_list_into_a_closed_pipe() -> None:
    """``nci-ood list | head -1`` ends without a traceback."""
    script = (
        "import os, sys; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        "from nci_plugin.cli.main import main; sys.exit(main(['list']))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), stderr=subprocess.PIPE, check=False)
    assert b"Traceback" not in done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_validate_every_shipped_config() -> None:
    files = [str(path) for path in sorted(config_directory().rglob("*.yml"))]
    names = [*benchmark_names(), *detector_names()]
    code, out, err = command(["validate", *files, *names])
    assert (code, err) == (0, "")
    assert [line.split(": valid ")[0] for line in out.splitlines()] == [*files, *names]


def test_validate_with_data(tiny: Tiny) -> None:
    before = tree(tiny.root)
    code, out, err = command(["validate", str(tiny.yaml), "--data-root", str(tiny.data)])
    assert (code, err) == (0, "")
    assert "all images are there" in out
    for split, name in SPLITS.items():
        assert f"{split} {COUNTS[name]}" in out
    assert tree(tiny.root) == before
    tiny.image("near", 1).unlink()
    code, out, err = command(["validate", str(tiny.yaml), "--data-root", str(tiny.data)])
    assert code == 2
    assert "'near/1.png'" in err


@pytest.mark.parametrize("arguments", [["--help"], ["eval", "--help"], ["list", "--help"], ["validate", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 0
    text = capsys.readouterr()
    assert text.out.startswith("usage: nci-ood")
    assert text.err == ""


def test_help_needs_no_torch() -> None:
    script = (
        "import sys; from nci_plugin.cli.main import main\n"
        "try: main(['eval', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"


# -------------------------------------------------------------------- the Python function

OPTIONS: dict[str, Any] = {"device": "cpu", "batch_size": BATCH, "progress": False}
PREPROCESSING = Preprocessing(8, 8, ((0.5,) * 3, (0.5,) * 3))


class Tuples(Dataset):
    """Items (image tensor, label)."""

    def __init__(self, tiny: Tiny, split: str) -> None:
        self.images, self.labels = images_of(tiny, split), labels_of(split)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index]


class Dictionaries(Tuples):
    """Items as OpenOOD's data sets give them."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"data": image, "label": label, "image_name": f"{index}.png", "index": index}


def labels_of(split: str) -> list[int]:
    return [index % 3 if split in ID_SPLITS else -1 for index in range(COUNTS[split])]


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def pil_images(tiny: Tiny, split: str) -> list[Any]:
    images = [opened(tiny.image(split, index)) for index in range(COUNTS[split])]
    return list(zip(images, labels_of(split))) if split in ID_SPLITS else images


def paths(tiny: Tiny, split: str) -> list[Any]:
    names = [tiny.image(split, index) for index in range(COUNTS[split])]
    return list(zip(names, labels_of(split))) if split in ID_SPLITS else [str(name) for name in names]


def features(tiny: Tiny, split: str) -> Features:
    network, inputs = tiny.loaded(), []
    network.fc.register_forward_hook(lambda layer, given, output: inputs.append(given[0]))
    with torch.no_grad():
        logits = torch.cat([network(batch) for batch in images_of(tiny, split).split(BATCH)])
    return Features(torch.cat(inputs), torch.tensor(labels_of(split)), logits)


def features_alone(tiny: Tiny, split: str) -> Features:
    """Without logits, and without labels where none are needed."""
    whole = features(tiny, split)
    return Features(whole.features, whole.labels if split in ID_SPLITS else None)


def benchmark_of(source: Callable[[Tiny, str], Any], tiny: Tiny) -> Benchmark:
    split = {name: source(tiny, name) for name in COUNTS}
    return Benchmark.from_splits(
        "tiny",
        3,
        train=split["train"],
        val=split["val"],
        test=split["test"],
        ood_val=split["oodval"],
        csid={"csid": split["csid"]},
        near={"near": split["near"], "near2": split["near2"]},
        far={"far": split["far"]},
        preprocessing=PREPROCESSING,
    )


@pytest.fixture(scope="module")
def from_lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, list[Any], Evaluation]:
    tiny = Tiny(tmp_path_factory.mktemp("api"))
    detectors = ["msp", "nci", load_detector(small_knn(tiny)), "pytorch_ood:entropy"]
    return tiny, detectors, evaluate(tiny.loaded(), str(tiny.yaml), detectors, data_root=tiny.data, **OPTIONS)


def assert_same(one: Evaluation, other: Evaluation, tolerance: float) -> None:
    assert one.failures == other.failures == {}
    assert list(one.scores) == list(other.scores) == ["msp", "nci", "knn", "pytorch_ood:entropy"]
    for name, by_split in one.scores.items():
        assert set(by_split) == set(other.scores[name])
        for split, scores in by_split.items():
            np.testing.assert_allclose(other.scores[name][split], scores, rtol=tolerance, atol=tolerance)
    assert [result.key for result in one.results] == [result.key for result in other.results]
    for mine, theirs in zip(one.results, other.results):
        assert [getattr(mine, field) for field in COLUMNS.values()] == pytest.approx(
            [getattr(theirs, field) for field in COLUMNS.values()], abs=1e-9
        )
        assert mine.hyperparameters == theirs.hyperparameters


@pytest.mark.parametrize(
    ("source", "tolerance"),
    [(pil_images, 0), (paths, 0), (Tuples, 1e-6), (Dictionaries, 1e-6), (features, 1e-6), (features_alone, 1e-6)],
)
def test_evaluate_on_every_kind_of_source(
    from_lists: tuple[Tiny, list[Any], Evaluation], source: Callable[[Tiny, str], Any], tolerance: float
) -> None:
    tiny, detectors, expected = from_lists
    evaluation = evaluate(tiny.loaded(), benchmark_of(source, tiny), detectors, **OPTIONS)
    assert_same(expected, evaluation, tolerance)


def test_evaluate_on_features_with_the_head_alone(from_lists: tuple[Tiny, list[Any], Evaluation]) -> None:
    tiny, detectors, expected = from_lists
    assert_same(expected, evaluate(tiny.loaded().fc, benchmark_of(features, tiny), detectors, **OPTIONS), 1e-6)


def test_evaluate_with_an_output_directory(from_lists: tuple[Tiny, list[Any], Evaluation], tmp_path: Path) -> None:
    tiny, detectors, expected = from_lists
    tiny.passes()
    for _ in range(2):
        evaluation = evaluate(tiny.loaded(), str(tiny.yaml), detectors, data_root=tiny.data, output=tmp_path, **OPTIONS)
        assert_same(expected, evaluation, 0)
    everything = batches(*COUNTS)
    assert len(tiny.passes()) <= len(everything) + 2 * 3
    assert (tmp_path / "ood" / "nci.csv").is_file()
    with np.load(tmp_path / "scores" / "nci.npz") as scores:
        np.testing.assert_array_equal(scores["id/test"], evaluation.scores["nci"]["id/test"])


def test_evaluate_agrees_with_the_command(from_lists: tuple[Tiny, list[Any], Evaluation]) -> None:
    tiny, _, expected = from_lists
    assert command(tiny.eval("msp", "nci", small_knn(tiny), "pytorch_ood:entropy"))[0] == 0
    rows = read_rows(tiny.output)
    assert [tuple(row[field] for field in COLUMNS.values()) for row in rows] == [
        tuple(getattr(result, field) for field in COLUMNS.values()) for result in expected.results
    ]


def test_evaluate_leaves_its_inputs_alone(tiny: Tiny) -> None:
    network = tiny.loaded().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    given = benchmark_of(features_alone, tiny)
    copies = {name: split.features.clone() for name, split in given.splits.items()}
    evaluate(network, given, ["nci", load_detector(small_knn(tiny))], **OPTIONS)
    evaluate(network, benchmark_of(Tuples, tiny), ["nci"], **OPTIONS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(split.features, copies[name]) for name, split in given.splits.items())


def test_evaluate_within_a_training_loop(tiny: Tiny) -> None:
    """A network that was in training mode is so again; its batch norms would be frozen unnoticed else."""
    network = tiny.loaded().train()
    evaluate(network, benchmark_of(Tuples, tiny), ["msp"], **OPTIONS)
    assert network.training
