"""Evaluating inside a checkout of OpenOOD: its data, checkpoints, options, score files and download commands."""

from __future__ import annotations

import argparse
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import NETWORK, draw_nothing, tree

from nci_plugin.adapters.openood.roots import find_roots
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError
from nci_plugin.cli import eval_all
from nci_plugin.cli.groups import Data, Network
from nci_plugin.cli.main import main
from nci_plugin.cli.network import Job
from nci_plugin.config import load_benchmark
from nci_plugin.evaluation.results import read_results
from nci_plugin.inputs import find_inputs, official_benchmarks
from nci_plugin.networks.factory import build_network

ROOT = Path(__file__).resolve().parent.parent
PER_SPLIT = 6
CIFAR10 = "results/cifar10_resnet18_32x32_base_e100_lr0.1_default"
FOREIGN = b",FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC\ncifar100,1.00,2.00,3.00,4.00,5.00\n"

pytestmark = pytest.mark.usefixtures("one_thread")


class Checkout:
    """A directory that is known as a checkout of OpenOOD, with tiny data in its layout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        landmark = root / "openood" / "evaluation_api" / "evaluator.py"
        landmark.parent.mkdir(parents=True)
        landmark.touch()
        (root / "net.py").write_text(NETWORK, encoding="utf-8")

    def write_data(self, name: str) -> None:
        """A list and random images for every split of a benchmark."""
        generator = np.random.default_rng(0)
        benchmark = load_benchmark(name)
        for split, source in benchmark.splits.items():
            assert isinstance(source, ImageList)
            lines = []
            for index in range(PER_SPLIT):
                path = f"{split.replace('/', '_')}/{index}.png"
                file = self.root / "data" / source.data_dir / path
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)
                lines.append(f"{path} {index % 3 if benchmark.is_id(split) else -1}\n")
            self.list(source.imglist_path).parent.mkdir(parents=True, exist_ok=True)
            self.list(source.imglist_path).write_text("".join(lines), encoding="utf-8")

    def list(self, imglist_path: str) -> Path:
        return self.root / "data" / imglist_path

    def save_checkpoint(self, factory: str, directory: str = CIFAR10, num_classes: int = 10, seed: int = 0) -> None:
        path = self.root / directory / f"s{seed}" / "best.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(build_network(factory, num_classes, {}).state_dict(), path)

    def __truediv__(self, path: str) -> Path:
        return self.root / path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    checkout = Checkout(tmp_path / "OpenOOD")
    monkeypatch.chdir(checkout.root)
    monkeypatch.delenv("OPENOOD_ROOT", raising=False)
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    return checkout


@pytest.fixture
def cifar10(checkout: Checkout) -> Checkout:
    """A checkout with the CIFAR-10 benchmark for a network of a few weights, three seeds."""
    checkout.write_data("cifar10")
    for seed in range(3):
        checkout.save_checkpoint("net.py:make", seed=seed)
    return checkout


Answer = tuple[int, str, str]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(*arguments: str) -> Answer:
        capfd.readouterr()
        code = main(arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def small(*options: str, benchmark: str = "cifar10") -> list[str]:
    return ["eval", benchmark, "--net", "net.py:make", "--detectors", "msp", "nci", "--device", "cpu", *options]


def pickled(path: Path) -> dict:
    with path.open("rb") as file:
        return pickle.load(file)


# -------------------------------------------------------------------- what is found


def test_from_the_command_line_with_openoods_own_network(checkout: Checkout, tmp_path: Path) -> None:
    """From elsewhere, with the network and the names of checkpoints and results that OpenOOD has."""
    checkout.write_data("cifar10")
    checkout.save_checkpoint("nci_plugin.networks.resnet:ResNet18_32x32")
    arguments = ["cifar10", "--detectors", "msp", "--device", "cpu", "--workers", "0", "--save-csv", "--save-score"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENOOD_ROOT": str(checkout.root), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "nci_plugin", "eval", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert f"OpenOOD: {checkout.root}" in process.stdout.splitlines()
    for file in ("ood/msp.csv", "fsood/msp.csv", "s0/scores/msp.pkl", "s0/scores/msp.npz", "results.jsonl"):
        assert (checkout / CIFAR10 / file).is_file(), file
    assert not (tmp_path / "results").exists()


def test_options_win(cifar10: Checkout, command: Callable[..., Answer], tmp_path: Path) -> None:
    (cifar10 / "data").rename(tmp_path / "images")
    (cifar10 / CIFAR10).rename(tmp_path / "networks")
    roots = ["--data-root", str(tmp_path / "images"), "--root", str(tmp_path / "networks")]
    code, out, err = command(*small(*roots))
    assert (code, err) == (0, "")
    assert f"OpenOOD: {cifar10.root}" in out  # for the results
    assert (cifar10 / "results/cifar10_networks/ood/nci.csv").is_file()
    code, out, _ = command(*small(*roots, "--output", str(tmp_path / "out")))
    assert code == 0
    assert "OpenOOD: " not in out


def test_root_and_ckpt_path_are_the_same(command: Callable[..., Answer], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(small("--root", "a", "--ckpt-path", "b"))
    assert stop.value.code == 2
    assert "not allowed with argument --root" in capfd.readouterr().err


def test_built_in_data_stay_out_of_openoods_lists(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenOOD downloads its lists only where there is no data/benchmark_imglist."""
    assert find_roots("digits").data == Path("data/nci_plugin")
    assert find_roots("mine.yml").data == Path("data")
    monkeypatch.chdir(checkout.root.parent)
    assert find_roots("digits").data == Path("data")
    assert find_roots("digits").results == Path("results")


# -------------------------------------------------------------------- full spectrum


def test_both_settings_from_one_pass(cifar10: Checkout, command: Callable[..., Answer]) -> None:
    code, out, err = command(*small())
    assert (code, err) == (0, "")
    assert "standard OOD" in out
    assert "full-spectrum OOD (" in out
    passes = sum(map(int, (cifar10 / "passes").read_text().split()))
    assert passes <= 3 * (11 + 2) * PER_SPLIT  # 11 splits, and the batch on which the head is looked for


def test_fsood_restricts_tables_and_csv(cifar10: Checkout, command: Callable[..., Answer]) -> None:
    code, out, err = command(*small("--fsood"))
    assert (code, err) == (0, "")
    assert "standard OOD" not in out
    assert "full-spectrum OOD (" in out
    assert "hyper-parameters, and how they were chosen" in out
    assert not (cifar10 / CIFAR10 / "ood").exists()
    assert (cifar10 / CIFAR10 / "fsood" / "nci.csv").is_file()
    command(*small())
    assert (cifar10 / CIFAR10 / "ood" / "nci.csv").is_file()


def test_fsood_without_csid_sets(checkout: Checkout, command: Callable[..., Answer]) -> None:
    before = tree(checkout.root)
    code, out, err = command(*small("--fsood", benchmark="cifar100"))
    assert code == 2
    assert err.startswith("nci-ood: error: --fsood: benchmark 'cifar100' has no full spectrum")
    assert len(err.splitlines()) == 1
    assert "missing" not in out
    assert tree(checkout.root) == before


@pytest.mark.parametrize("lack", ["list", "images"])
def test_missing_csid_costs_only_the_full_spectrum(
    cifar10: Checkout, command: Callable[..., Answer], lack: str
) -> None:
    file = "benchmark_imglist/cifar10/test_cifar10c.txt" if lack == "list" else "images_classic/csid_cifar10c/1.png"
    (cifar10 / "data" / file).unlink()
    code, out, err = command(*small())
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if "full-spectrum" in line]
    assert file in line
    assert "cifar10c lacks" in line
    assert "--csid" in line
    assert {row.setting for row in read_results(cifar10 / CIFAR10 / "results.jsonl")} == {"ood"}
    for options in (["--csid", "cifar10c"], ["--fsood"]):
        code, out, err = command(*small(*options))
        assert code == 2
        assert "missing: csid/cifar10c  " in out
        assert "--datasets cifar10c " in err
    assert command(*small("--csid", "none"))[0] == 0


def test_other_csid_sets_can_be_selected(checkout: Checkout) -> None:
    """ImageNet-ES, which OpenOOD's script does not download, does not cost the other three sets."""
    checkout.write_data("imagenet")
    checkout.save_checkpoint("net.py:make")
    checkout.list("benchmark_imglist/imagenet/test_imagenet_es.txt").unlink()
    benchmark, roots, path = load_benchmark("imagenet"), find_roots("imagenet"), checkout / CIFAR10
    inputs = find_inputs(benchmark, roots, path)
    assert inputs.benchmark.data_sets("csid") == []
    assert not [split for split in inputs.splits if split.startswith("csid")]
    assert "--csid selects other sets: imagenet_v2 imagenet_c imagenet_r" in inputs.no_full_spectrum
    inputs = find_inputs(benchmark, roots, path, csid=["imagenet_r", "imagenet_v2"])
    assert inputs.benchmark.data_sets("csid") == ["imagenet_v2", "imagenet_r"]
    with pytest.raises(PluginError, match=r"python -c '.*data_setup\(\"./data\", \"imagenet\"\)'"):
        find_inputs(benchmark, roots, path, csid=["imagenet_es"])
    with pytest.raises(PluginError, match=r"unknown .*'imagenet_e' \(did you mean 'imagenet_es'\?\)"):
        find_inputs(benchmark, roots, path, csid=["imagenet_e"])


# -------------------------------------------------------------------- what is missing


DATA_SETS = {
    "cifar10": "cifar10 tin cifar10c cifar100 mnist svhn texture places365",
    "cifar100": "cifar100 tin cifar10 mnist svhn texture places365",
    "imagenet200": "imagenet_1k openimage_o imagenet_v2 imagenet_c imagenet_r ssb_hard ninco inaturalist texture",
    "imagenet": "imagenet_1k openimage_o imagenet_v2 imagenet_c imagenet_r ssb_hard ninco inaturalist texture",
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_download_command(checkout: Checkout, name: str) -> None:
    """The arguments of OpenOOD's scripts/download/download.py, whose names of data sets are directories of its data."""
    with pytest.raises(PluginError) as caught:
        find_inputs(load_benchmark(name), find_roots(name), None if name != "imagenet" else _file(checkout / "a.ckpt"))
    (command,) = str(caught.value).split(" run: ")[1].split("; ")[0].split(" && ")[:1]
    parser = argparse.ArgumentParser()
    for option in ("--contents", "--datasets", "--checkpoints", "--save_dir"):
        parser.add_argument(option, nargs="+")
    parser.add_argument("--dataset_mode")
    python, script, *arguments = shlex.split(command)
    options = parser.parse_args(arguments)
    assert (python, script) == ("python", "./scripts/download/download.py")
    assert options.datasets == DATA_SETS[name].split()
    assert (options.dataset_mode, options.save_dir) == ("dataset", ["./data", "./results"])
    archives = {"cifar10": "cifar10_res18_v1.5", "cifar100": "cifar100_res18_v1.5"}
    archives["imagenet200"] = "imagenet200_res18_v1.5"
    assert options.checkpoints == ([archives[name]] if name in archives else None)
    assert options.contents == ["datasets", *["checkpoints"] * (name in archives)]
    assert ("come from image-net.org" in str(caught.value)) == name.startswith("imagenet")


def _file(path: Path) -> Path:
    path.touch()
    return path


def test_every_missing_split_is_listed(cifar10: Checkout, command: Callable[..., Answer]) -> None:
    for index in (1, 4):
        (cifar10 / f"data/images_classic/far_svhn/{index}.png").unlink()
    cifar10.list("benchmark_imglist/cifar10/val_tin.txt").unlink()
    (cifar10 / "data/images_classic/svhn").mkdir()
    _file(cifar10 / "data/images_classic/svhn/part.png")
    before = tree(cifar10.root)
    code, out, err = command(*small())
    assert code == 2
    assert [line for line in out.splitlines() if line.startswith("missing: ")] == [
        "missing: ood/val   the list benchmark_imglist/cifar10/val_tin.txt",
        "missing: far/svhn  2 of 6 images, first images_classic/far_svhn/1.png",
    ]
    (line,) = err.splitlines()
    assert line.startswith("nci-ood: error: benchmark 'cifar10': 2 of 11 splits lack their list or images; in ")
    assert "--contents datasets --datasets tin svhn --dataset_mode dataset" in line
    there = [cifar10 / "data/images_classic/svhn", cifar10 / "data/benchmark_imglist"]  # the script would skip both
    assert f"first move away {', '.join(map(str, there))}" in line
    assert tree(cifar10.root) == before
    assert command("validate", "cifar10", "--data-root", str(cifar10 / "data"))[:2] == (
        2,
        "cifar10: valid benchmark: cifar10, 10 classes, splits "
        + ", ".join(load_benchmark("cifar10").splits)
        + "\n"
        + "".join(f"{line}\n" for line in out.splitlines() if line.startswith("missing: ")),
    )


def test_missing_checkpoints_alone(cifar10: Checkout, command: Callable[..., Answer]) -> None:
    (cifar10 / CIFAR10).rename(cifar10 / "elsewhere")
    code, out, err = command(*small())
    assert code == 2
    assert f"missing: checkpoints  {cifar10 / CIFAR10}/s*/best.ckpt" in out.splitlines()
    assert "download.py --contents checkpoints --checkpoints cifar10_res18_v1.5 --save_dir ./data ./results" in err


# -------------------------------------------------------------------- all


def find_all(find: Callable[..., Any], named: bool, **network: str) -> dict[str, Any]:
    """`eval_all.find_all` with what ``find`` finds in the place of inputs."""
    job = SimpleNamespace(network=Network(**network), data=Data(), find=find)
    return eval_all.find_all(cast(Job, job), named)


def test_all_evaluates_what_is_there(checkout: Checkout, command: Callable[..., Answer]) -> None:
    checkout.write_data("cifar10")
    checkout.write_data("cifar100")
    checkout.save_checkpoint("nci_plugin.networks.resnet:ResNet18_32x32")
    code, out, err = command("eval", "all", "--detectors", "msp", "--device", "cpu", "--workers", "0")
    assert (code, err) == (0, "")
    left_out = [line.split(": ")[1] for line in out.splitlines() if line.startswith("left out: ")]
    assert left_out == ["cifar100", "imagenet", "imagenet200"]
    assert "left out: cifar100: there are no checkpoints in " in out
    assert "== cifar10" in out.splitlines()
    assert (checkout / CIFAR10 / "ood/msp.csv").is_file()


def test_all_goes_on_after_an_error(
    checkout: Checkout, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {name: SimpleNamespace(name=name, roots=find_roots(name)) for name in official_benchmarks()}
    seen = []

    def evaluate(given: SimpleNamespace, *others: object) -> int:
        seen.append(given.name)
        if given.name == "cifar10":
            raise PluginError("an image is damaged")
        return given.name == "imagenet"

    monkeypatch.setattr("nci_plugin.cli.eval._evaluate", evaluate)
    monkeypatch.setattr(Job, "find", lambda job, name, roots: inputs[name])
    code, out, err = command("eval", "all", "--detectors", "msp", "--device", "cpu")
    assert (code, seen) == (2, official_benchmarks())
    assert [line for line in out.splitlines() if line.startswith("== ")] == [f"== {name}" for name in seen]
    assert err == "nci-ood: error: cifar10: an image is damaged\n"


def test_nothing_is_there(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    """``all`` says so; without a BENCHMARK the built-in one is evaluated."""

    def find(name: str, roots: object) -> str:
        if name in official_benchmarks():
            raise PluginError(f"no data of {name}")
        return name

    assert find_all(find, named=False, net="net.py:make") == {"digits": "digits"}
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    for name in official_benchmarks():
        assert f"no data of {name}" in out
    with pytest.raises(PluginError, match="no benchmark of OpenOOD's can be evaluated .cifar10: no data"):
        find_all(find, named=True)


@pytest.mark.parametrize("options", [["--root", "x"], ["--net", "net.py:make"], ["--csid", "cifar10c"]])
def test_options_of_one_benchmark(checkout: Checkout, command: Callable[..., Answer], options: list[str]) -> None:
    code, _, err = command("eval", "all", *options)
    assert code == 2
    assert "cannot hold for all benchmarks" in err


# -------------------------------------------------------------------- files beside OpenOOD's own


def test_score_files_are_openoods(cifar10: Checkout, command: Callable[..., Answer]) -> None:
    """Keys and types of Evaluator.scores after eval_ood(fsood=True) of OpenOOD v1.5."""
    assert command(*small("--save-score"))[0] == 0
    folder = cifar10 / CIFAR10 / "s1" / "scores"
    content = pickled(folder / "nci.pkl")
    assert {key: sorted(value) for key, value in content.items() if isinstance(value, dict)} == {
        "id": ["test", "train", "val"],
        "csid": ["cifar10c"],
        "ood": ["far", "near", "val"],
        "csid_preds": ["cifar10c"],
        "csid_labels": ["cifar10c"],
    }
    assert content["id"]["train"] is content["id"]["val"] is content["ood"]["val"] is None
    assert list(content["ood"]["near"]) == ["cifar100", "tin"]
    assert list(content["ood"]["far"]) == ["mnist", "svhn", "texture", "places365"]
    with np.load(folder / "nci.npz") as scores, np.load(folder / "predictions.npz") as answers:
        for split, (pred, conf, gt) in _triples(content):
            np.testing.assert_array_equal(conf, scores[split])
            np.testing.assert_array_equal(pred, answers[f"{split}/predictions"])
            np.testing.assert_array_equal(gt, answers[f"{split}/labels"])
            assert pred.dtype == gt.dtype == int
            assert (gt == -1).all() == (split.split("/")[0] in ("near", "far"))
    for key, split in (("id_preds", 0), ("id_labels", 2)):
        assert content[key].dtype == torch.int64
        np.testing.assert_array_equal(content[key].numpy(), content["id"]["test"][split])
    np.testing.assert_array_equal(content["csid_labels"]["cifar10c"].numpy(), content["csid"]["cifar10c"][2])


def _triples(content: dict) -> Iterable[tuple[str, list[np.ndarray]]]:
    yield "id/test", content["id"]["test"]
    for group, sets in (("csid", content["csid"]), *((group, content["ood"][group]) for group in ("near", "far"))):
        for name, triple in sets.items():
            yield f"{group}/{name}", triple


def test_openoods_files_are_moved_aside(cifar10: Checkout, command: Callable[..., Answer]) -> None:
    csv, scores = cifar10 / CIFAR10 / "ood/nci.csv", cifar10 / CIFAR10 / "s0/scores/nci.pkl"
    others = [cifar10 / CIFAR10 / "ood/odin.csv", csv.with_name("nci.csv.old")]
    for path in (csv, *others, scores):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FOREIGN)
    code, out, err = command(*small("--save-score"))
    assert (code, err) == (0, "")
    assert len([line for line in out.splitlines() if "moved aside" in line]) == 2
    assert f"{csv}: not written by nci_plugin, moved aside to nci.csv.old2" in out
    kept = [*others, csv.with_name("nci.csv.old2"), scores.with_name("nci.pkl.old")]
    assert [path.read_bytes() for path in kept] == [FOREIGN] * 4
    ours = csv.read_bytes()
    assert ours != FOREIGN
    assert "moved aside" not in command(*small("--save-score"))[1]
    assert command(*small("--save-score", "--batch-size", "3"))[0] == 0
    assert csv.read_bytes() == ours
    assert not list(cifar10.root.rglob("*.old3"))


def test_rows_of_an_interrupted_run_do_not_make_a_csv_ours(cifar10: Checkout, command: Callable[..., Answer]) -> None:
    """The rows come before the CSV; and a full-spectrum run leaves the standard CSV to OpenOOD."""
    csv = cifar10 / CIFAR10 / "ood/nci.csv"
    csv.parent.mkdir()
    csv.write_bytes(FOREIGN)
    assert command(*small("--fsood"))[0] == 0
    assert csv.read_bytes() == FOREIGN
    assert command(*small())[0] == 0
    assert csv.with_name("nci.csv.old").read_bytes() == FOREIGN
