"""Bad input through the command line: one line with the thing and its remedy, exit code 2, nothing left behind."""

from __future__ import annotations

import builtins
import errno
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import CLASSES, SIZE, Tiny, draw_nothing, stored, tree

from nci_plugin import Benchmark, Features, LinearHead, PluginError, evaluate
from nci_plugin.cli.main import main
from nci_plugin.detectors import KNN, NCI, registry
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.features.options import resolve_device

FINISHED = re.compile(r"/(\d{5}|statistics)-[0-9a-f]{32}\.safetensors$|/split\.json$|/images/[^/]+\.digests$")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.chdir(tmp_path)  # the default output is relative to the working directory
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the wait for the disk is not the subject
    return Tiny(tmp_path)


@pytest.fixture
def refused(tiny: Tiny, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must fail: checks exit code, output and what is left on the disk; returns the error line.

    ``while_passing``: the input shows its fault only in the pass; features of splits finished before it may stay, and
    the seconds that they took.
    """

    def run(arguments: list[str], while_passing: bool = False) -> str:
        before = tree(tiny.root)
        capfd.readouterr()
        with warnings.catch_warnings(record=True) as warned:  # each would be more lines
            warnings.simplefilter("default")
            code = main(arguments)
        error = capfd.readouterr().err
        assert not [str(warning.message) for warning in warned]
        assert error.startswith("nci-ood: error: ")
        assert error.endswith("\n")
        assert len(error.splitlines()) == 1, error
        assert code == 2
        after = tree(tiny.root)
        assert {path: after.get(path) for path in before} == before
        left = [path for path in after if path not in before and after[path] is not None]
        if while_passing:
            left = [path for path in left if "features" not in path.split("/") or not FINISHED.search(path)]
            left = [path for path in left if "extraction_seconds" not in path.split("/")]
        assert left == []
        return error

    return run


# -------------------------------------------------------------------- the real process


def test_the_real_process(tiny: Tiny) -> None:
    path, victim = tiny.root / "evil.ckpt", tiny.root / "victim"
    path.write_bytes(pickle.dumps({"fc.weight": Payload(victim)}))
    before = tree(tiny.root)
    done = subprocess.run(
        [sys.executable, "-m", "nci_plugin", *tiny.eval(ckpt_path=path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"nci-ood: error: checkpoint '{path}': .*nothing was unpickled.*\n", done.stderr)
    assert tree(tiny.root) == before


# -------------------------------------------------------------------- names and keys


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "cifar1"], r"unknown benchmark 'cifar1' \(did you mean 'cifar10+'\?\); known: .*digits"),
        (["eval", "tiny.yml", "--detectors", "ncy"], r"unknown detector 'ncy' \(did you mean 'nci'\?\); known: .*msp"),
        (
            ["eval", "tiny.yml", "--detectors", "pytorch_ood:vimm"],
            r"unknown detector 'pytorch_ood:vimm' \(did you mean 'pytorch_ood:vim'\?\)",
        ),
        (["validate", "cifar1"], r"unknown benchmark or detector 'cifar1' \(did you mean 'cifar10+'\?\)"),
        (["validate", "gone.yml"], r"config 'gone.yml': No such file"),
        (["eval", "gone.yml"], r"config 'gone.yml': No such file"),
        (["eval", "tiny.yml", "--detectors", "gone.yml"], r"config 'gone.yml': No such file"),
    ],
)
def test_unknown_name(refused: Callable[..., str], arguments: list[str], message: str) -> None:
    assert re.search(message, refused(arguments))


def at(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        config = config[key]
    return config


@pytest.mark.parametrize("command", ["eval", "validate"])
@pytest.mark.parametrize(
    ("where", "key", "meant"),
    [
        ((), "benchmarks", "benchmark"),
        (("benchmark",), "num_clases", "num_classes"),
        (("benchmark", "preprocessing"), "presize", "pre_size"),
        (("benchmark", "id"), "tests", "test"),
        (("benchmark", "ood"), "nearr", "near"),
        (("benchmark", "ood", "val"), "imglist", "imglist_path"),
        (("benchmark", "ood", "near", "near2"), "data_dirs", "data_dir"),
        (("benchmark", "id", "train"), "preprocesing", "preprocessing"),
    ],
)
def test_unknown_key_of_a_benchmark(
    tiny: Tiny, refused: Callable[..., str], command: str, where: tuple[str, ...], key: str, meant: str
) -> None:
    at(tiny.config, *where)[key] = {}
    tiny.save_config()
    error = refused(tiny.eval() if command == "eval" else ["validate", str(tiny.yaml)])
    assert re.search(rf"config '{tiny.yaml}'.*unknown key '{key}' \(did you mean '{meant}'\?\); allowed: ", error)


def test_entry_that_no_list_names(tiny: Tiny, refused: Callable[..., str]) -> None:
    """OpenOOD describes sets that it does not evaluate; such an entry must still be one of a data set."""
    near = at(tiny.config, "benchmark", "ood", "near")
    near["datasets"] = ["near"]
    near["near2"] = {"imglist": "near2.txt"}
    tiny.save_config()
    assert "near2: unknown key 'imglist' (did you mean 'imglist_path'?)" in refused(["validate", str(tiny.yaml)])


@pytest.mark.parametrize("name", ["far", "nearood", "farood"])
def test_data_set_name_that_is_taken(tiny: Tiny, refused: Callable[..., str], name: str) -> None:
    """Rows of a table have one name for a data set or a group: two of one name would be averaged silently."""
    near = at(tiny.config, "benchmark", "ood", "near")
    near["datasets"] = ["near", name]
    near[name] = near.pop("near2")
    tiny.save_config()
    assert f"'{name}'" in refused(tiny.eval())


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        ({"postprocesor": {"name": "nci"}}, r"unknown key 'postprocesor' \(did you mean 'postprocessor'\?\)"),
        ({"postprocessor": {"name": "ncy"}}, r"unknown detector 'ncy' \(did you mean 'nci'\?\)"),
        ({"postprocessor": {"nam": "nci"}}, r"unknown key 'nam' \(did you mean 'name'\?\)"),
        ({"postprocessor": {"APS_mode": True}}, r"key 'name' is missing"),
        ({"postprocessor": {"name": "nci", "aps_mode": True}}, r"unknown key 'aps_mode' \(did you mean 'APS_mode'\?\)"),
        ({"postprocessor": {"name": "nci", "APS_mode": "yes"}}, r"APS_mode must be True or False, got 'yes'"),
        ({"postprocessor": {"name": "nci", "postprocessor_args": {"alhpa": 1}}}, r"'alhpa' \(did you mean 'alpha'\?\)"),
        (
            {"postprocessor": {"name": "nci", "postprocessor_args": {"name": 1}}},
            r"postprocessor_args: unknown key 'name'; allowed: alpha",
        ),
        ({"postprocessor": {"name": "nci", "postprocessor_args": {1: 1}}}, r"unknown key '1'"),
        ({"postprocessor": {"name": "nci", "postprocessor_args": [1]}}, r"must be a mapping"),
        (
            {"postprocessor": {"name": "nci", "APS_mode": True, "postprocessor_sweep": {"alpha": [1]}}},
            r"postprocessor_sweep: unknown key 'alpha' \(did you mean 'alpha_list'\?\)",
        ),
        ({"postprocessor": {"name": "nci", "postprocessor_sweep": {"alpha_list": 1}}}, r"alpha_list must be a list"),
        ({"postprocessor": {"name": "nci", "postprocessor_sweep": {"alpha_list": []}}}, r"alpha_list must be a list"),
        ({"postprocessor": {"name": "nci", "postprocessor_sweep": {"alpha_list": [1, "x"]}}}, r"alpha.*got 'x'"),
        ({"postprocessor": {"name": "nci", "postprocessor_args": {"alpha": "abc"}}}, r"'nci': alpha.*got 'abc'"),
        ({"postprocessor": {"name": "nci", "postprocessor_args": {"alpha": float("nan")}}}, r"'nci': alpha.*got nan"),
        ({"postprocessor": {"name": "nci", "postprocessor_args": {"alpha": 10**400}}}, r"'nci': alpha"),
        ({"postprocessor": {"name": "knn", "postprocessor_args": {"K": 0}}}, r"'knn': K.*above 0, got 0"),
        ({"postprocessor": {"name": "knn", "postprocessor_args": {"K": 1.5}}}, r"'knn': K.*whole number.*got 1.5"),
        ({"postprocessor": {"name": "knn", "postprocessor_args": {"K": True}}}, r"'knn': K.*whole number.*got True"),
        ({"postprocessor": {"name": "neco", "postprocessor_args": {"dim": 2.0}}}, r"'neco': dim.*got 2.0"),
        ({"postprocessor": {"name": "neco", "postprocessor_args": {"scale": 1}}}, r"'neco': scale.*got 1"),
        ({"postprocessor": {"name": "ebo", "postprocessor_args": {"temperature": -1}}}, r"temperature.*above 0.*-1"),
        ({"postprocessor": {"name": "feature_norm", "postprocessor_args": {"norm": "l3"}}}, r"norm.*l1, l2, linf.*l3"),
        ({"postprocessor": None}, r"must be a mapping"),
        ({"postprocessor": {"name": None}}, r"unknown detector 'None'"),
    ],
)
def test_detector_config(tiny: Tiny, refused: Callable[..., str], detector: Any, message: str) -> None:
    path = tiny.root / "mine.yml"
    path.write_text(yaml.safe_dump(detector), encoding="utf-8")
    assert re.search(message, refused(tiny.eval(str(path))))


def test_validate_a_detector_config(tiny: Tiny, refused: Callable[..., str]) -> None:
    path = tiny.root / "mine.yml"
    path.write_text("postprocesor: {name: nci}")
    error = refused(["validate", str(path)])
    assert re.search(r"unknown key 'postprocesor' \(did you mean 'postprocessor'\?\)", error)
    path.write_text("postprocessor: {name: nci, postprocessor_args: {alhpa: 1}}")
    assert re.search(r"unknown key 'alhpa' \(did you mean 'alpha'\?\)", refused(["validate", str(path)]))


def test_two_detectors_of_one_name(tiny: Tiny, refused: Callable[..., str]) -> None:
    """Both would be written to nci.csv, so one of them would be left out silently."""
    path = tiny.root / "mine.yml"
    path.write_text("postprocessor: {name: nci, postprocessor_args: {alpha: 0.5}}")
    assert re.search(r"'nci'", refused(tiny.eval("nci", str(path))))


def test_number_with_an_exponent_that_yaml_reads_as_text(tiny: Tiny, refused: Callable[..., str]) -> None:
    """YAML 1.1 takes ``1e-4`` for text: the message shows that."""
    path = tiny.root / "mine.yml"
    path.write_text("postprocessor: {name: nci, postprocessor_args: {alpha: 1e-4}}", encoding="utf-8")
    error = refused(["validate", str(path)])
    assert "alpha: must be a finite number, at least 0, got '1e-4'; YAML reads a number like 1e-4 as text" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"benchmark: [1, 2", r"line 1.*not valid YAML"),
        (b"a: b: c\n", r"line 1.*not valid YAML"),
        (b"- benchmark\n- other\n", r"must be a mapping of keys to values, got list"),
        (b"", r"must be a mapping of keys to values"),
        (b"just text", r"must be a mapping of keys to values, got str"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", r"not a text file"),
        (b"benchmark:\n  name: a\x00b\n", r"not valid YAML"),
        (b"benchmark: 2001-99-99\n", r"not valid YAML"),
        (b"benchmark: !!python/object/apply:os.system ['true']\n", r"not valid YAML"),
        (b"benchmark: 3\n", r"must be a mapping of keys to values, got int"),
        (b"benchmark: " + b"[" * 3000, r"not valid YAML"),
    ],
    ids=["cut", "colon", "list", "empty", "text", "binary", "nul", "date", "code", "number", "deep"],
)
@pytest.mark.parametrize("role", ["benchmark", "validate", "detector"])
def test_yaml_that_is_none(tiny: Tiny, refused: Callable[..., str], role: str, content: bytes, message: str) -> None:
    path = tiny.root / "broken.yml"
    path.write_bytes(content)
    detector = ["eval", str(tiny.yaml), "--detectors", str(path)]
    error = refused({"benchmark": ["eval", str(path)], "validate": ["validate", str(path)], "detector": detector}[role])
    assert str(path) in error
    if role != "detector" or content != b"benchmark: 3\n":
        assert re.search(message, error)


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ((), "num_classes", "three", r"num_classes: must be a whole number above 0, got 'three'"),
        ((), "num_classes", 0, r"num_classes: must be a whole number above 0, got 0"),
        ((), "num_classes", 2.5, r"num_classes: must be a whole number above 0, got 2.5"),
        ((), "num_classes", None, r"num_classes: must be a whole number above 0, got None"),
        ((), "id", {}, r"id: key 'test' is missing; add it"),
        ((), "ood", {}, r"no OOD set; add one"),
        ((), "csid", ["csid"], r"csid.*needs a list 'datasets'"),
        ((), "name", "../elsewhere", r"name.*'\.\./elsewhere'"),
        ((), "built_in", "no", r"built_in.*'no'"),
        ((), "network", "net.py:make", r"network: must be a mapping"),
        ((), "network", {"factory": 5}, r"factory.*5"),
        ((), "network", {"factory": "code/net.py:make", "arguments": [1]}, r"arguments.*mapping"),
        (("id",), "train", "train.txt", r"id: train: must be a mapping"),
        (("id", "train"), "imglist_path", 5, r"id: train.*imglist_path.*5"),
        (("id", "train"), "data_dir", None, r"id: train.*data_dir"),
        (("ood", "near"), "datasets", ["near", "naer2"], r"'naer2'.*did you mean 'near2'"),
        (("preprocessing",), "pre_size", "big", r"pre_size: must be a whole number above 0, got 'big'"),
        (("preprocessing",), "img_size", 0, r"img_size: must be a whole number above 0, got 0"),
        (("preprocessing",), "interpolation", "cubic", r"interpolation: must be one of .*bilinear.*got 'cubic'"),
        (("preprocessing",), "normalization", [[0.5] * 3, [0.0] * 3], r"normalization.*standard deviation > 0"),
        (("preprocessing",), "normalization", [[0.5] * 3, [0.5]], r"normalization must be"),
        (("preprocessing",), "normalization", [[0.5] * 3], r"normalization must be"),
        (("preprocessing",), "normalization", "imagenet", r"normalization must be"),
        (("id", "test"), "preprocessing", {"normalization": [["a"] * 3, ["b"] * 3]}, r"normalization must be"),
    ],
)
def test_value_of_a_benchmark(
    tiny: Tiny, refused: Callable[..., str], where: tuple[str, ...], key: str, value: Any, message: str
) -> None:
    at(tiny.config, "benchmark", *where)[key] = value
    tiny.save_config()
    own_network = where == () and key == "network"
    assert re.search(message, refused(tiny.eval(net=None) if own_network else tiny.eval()))


# -------------------------------------------------------------------- images and lists


@pytest.mark.parametrize("command", ["eval", "validate"])
def test_missing_data_root(tiny: Tiny, refused: Callable[..., str], command: str) -> None:
    gone = tiny.root / "gone"
    validate = ["validate", str(tiny.yaml), "--data-root", str(gone)]
    arguments = tiny.eval(data_root=gone) if command == "eval" else validate
    assert re.search(rf"image list '{gone}/.*test.txt': No such file.*--data-root", refused(arguments))


def test_a_benchmark_beside_a_folder_of_its_name(tiny: Tiny, refused: Callable[..., str]) -> None:
    """As in `nci-ood fit`, the name is that of the benchmark; ``./cifar10`` is the folder."""
    (tiny.root / "cifar10").mkdir()
    arguments = ["--ckpt-path", str(tiny.checkpoint), "--data-root", str(tiny.data), "--output", str(tiny.output)]
    assert "splits lack their list or images" in refused(["eval", "cifar10", *arguments])
    assert "how its images become the network's input" in refused(["eval", "./cifar10", *arguments])
    assert main(["validate", "cifar10"]) == 0
    assert "'./cifar10': is a folder; 'nci-ood eval' checks it itself" in refused(["validate", "./cifar10"])


def test_missing_list(tiny: Tiny, refused: Callable[..., str]) -> None:
    tiny.list("near2").unlink()
    assert re.search(r"image list '.*near2.txt': No such file.*--data-root", refused(tiny.eval()))


def test_missing_images(tiny: Tiny, refused: Callable[..., str]) -> None:
    tiny.image("far", 2).unlink()
    tiny.image("far", 5).unlink()
    error = refused(tiny.eval())
    assert re.search(r"far.txt': 2 of 6 images are missing.*first 'far/2.png'; put the .* or pass --data-root", error)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("near/4.png zero", r"near.txt' line 3: the label must be a small whole number, got 'zero'"),
        ("near/4.png 1.0", r"near.txt' line 3: the label must be a small whole number, got '1.0'"),
        ("near/4.png", r"near.txt' line 3: expected 'path label', got 'near/4.png'"),
        ("", r"near.txt' line 3: expected 'path label', got ''"),
        ("/etc/hostname -1", r"near.txt' line 3: the path must stay inside '.*images_classic', got '/etc/hostname'"),
        ("../../tiny.ckpt -1", r"near.txt' line 3: the path must stay inside '.*', got '../../tiny.ckpt'"),
        ("near/../far/1.png -1", r"near.txt' line 3: the path must stay inside"),
        ("near/\0.png -1", r"near.txt"),
        ("near/4.png 99999999999999999999", r"near.txt"),
    ],
)
def test_line_of_a_list(tiny: Tiny, refused: Callable[..., str], line: str, message: str) -> None:
    lines = tiny.list("near").read_text().splitlines()
    lines[2] = line
    tiny.list("near").write_text("\n".join(lines) + "\n")
    assert re.search(message, refused(tiny.eval()))


def test_list_that_is_not_text(tiny: Tiny, refused: Callable[..., str]) -> None:
    tiny.list("near").write_bytes(tiny.image("near", 0).read_bytes())
    assert re.search(r"image list '.*near.txt': not a text file", refused(tiny.eval()))


@pytest.mark.parametrize("split", ["train", "val", "test", "csid"])
@pytest.mark.parametrize("label", [-1, CLASSES, 10**17])
def test_label_outside_the_classes(tiny: Tiny, refused: Callable[..., str], split: str, label: int) -> None:
    lines = tiny.list(split).read_text().splitlines()
    lines[4] = f"{split}/4.png {label}"
    tiny.list(split).write_text("\n".join(lines) + "\n")
    assert re.search(rf"{split}.txt'.*{label}\b.*\b5 .*outside 0..2; correct the list", refused(tiny.eval()))


@pytest.mark.parametrize("split", ["train", "test", "far"])
def test_empty_split(tiny: Tiny, refused: Callable[..., str], split: str) -> None:
    tiny.list(split).write_text("")
    assert re.search(rf"{split}.txt': the split is empty; it needs at least one", refused(tiny.eval()))


@pytest.mark.parametrize(
    ("split", "index", "fault", "workers"),
    [
        ("near2", 5, "text", 0),
        ("near2", 5, "empty", 0),
        ("near2", 5, "cut", 0),
        ("near2", 5, "directory", 0),
        ("near2", 5, "text", 2),
        ("near2", 5, "cut", 2),
        ("test", 0, "text", 0),
        ("test", 0, "cut", 2),
    ],
)
def test_image_that_cannot_be_decoded(
    tiny: Tiny, refused: Callable[..., str], split: str, index: int, fault: str, workers: int
) -> None:
    path = tiny.image(split, index)
    data = path.read_bytes()
    path.unlink()
    if fault == "directory":
        path.mkdir()
    else:
        path.write_bytes({"text": b"no image", "empty": b"", "cut": data[: len(data) // 2]}[fault])
    error = refused(tiny.eval(workers=workers), while_passing=True)
    assert re.search(
        rf"image '{path}' \(line {index + 1} of '.*{split}.txt'\): cannot be decoded \(.+\); replace the file", error
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_different_sizes(tiny: Tiny, refused: Callable[..., str], workers: int) -> None:
    at(tiny.config, "benchmark", "preprocessing").update(pre_size=None, img_size=None)
    tiny.save_config()
    tiny.write_image(tiny.image("near2", 2), np.zeros((SIZE + 2, SIZE, 3)) + 9)
    error = refused(tiny.eval(workers=workers), while_passing=True)
    assert re.search(r"near2.*images of a split must have one size.*set pre_size and img_size", error)


# -------------------------------------------------------------------- features


@pytest.mark.parametrize(("colour", "what"), [(255, "NaN"), (0, "infinity")])
@pytest.mark.parametrize(
    ("split", "name", "index"),
    [("train", "id/train", 10), ("near2", "near/near2", 5), ("test", "id/test", 6), ("test", "id/test", 2)],
)
def test_network_that_gives_no_numbers(
    tiny: Tiny, refused: Callable[..., str], split: str, name: str, index: int, colour: int, what: str
) -> None:
    """The last case lies in the first batch, on which the head is looked for."""
    tiny.write_image(tiny.image(split, index), np.full((SIZE, SIZE, 3), colour))
    error = refused(tiny.eval("nci"), while_passing=True)
    assert re.search(rf"split '{name}'.*row {index} holds NaN or infinity; check that image", error), what


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("split", ["train", "test", "near"])
def test_features_that_are_no_numbers(split: str, value: float) -> None:
    splits = feature_splits()
    splits[split].features[3, 1] = value
    with pytest.raises(PluginError, match=rf"'(id|near)/{split}'.*row 3 holds NaN or infinity") as caught:
        evaluate(tiny_head(), feature_benchmark(splits), ["nci"])
    assert "\n" not in str(caught.value)


def test_features_too_large_for_float32() -> None:
    splits = feature_splits()
    splits["near"] = Features(splits["near"].features.double())
    splits["near"].features[3, 1] = 1e300
    with pytest.raises(PluginError, match=r"near.*row 3 holds NaN or infinity"):
        evaluate(tiny_head(), feature_benchmark(splits), ["nci"])


def test_scores_that_are_all_as_large_as_can_be() -> None:
    """An ``alpha`` of 1e300 would make every score the largest float32, and every AUROC 50."""
    reason = evaluate(tiny_head(), feature_benchmark(feature_splits()), [NCI(alpha=1e300)]).failures["nci"]
    assert re.search(r"'nci': gave NaN, infinity or the largest float32 for \d+ of 6 samples with .*1e\+300", reason)


def test_head_of_other_features() -> None:
    head = LinearHead(torch.zeros(CLASSES, 9), torch.zeros(CLASSES))
    with pytest.raises(PluginError, match=r"'id/train'.*\(n, 9\), got \(6, 5\).*network that this head belongs to"):
        evaluate(head, feature_benchmark(feature_splits()), ["nci"])


def test_head_of_other_classes() -> None:
    with pytest.raises(PluginError, match=r"head has 4 classes, benchmark 'features' has 3; pass the network"):
        evaluate(LinearHead(torch.zeros(4, 5), torch.zeros(4)), feature_benchmark(feature_splits()), ["nci"])


def test_labels_of_features() -> None:
    splits = feature_splits()
    splits["test"] = Features(splits["test"].features)
    with pytest.raises(PluginError, match="'id/test': ID features need labels"):
        evaluate(tiny_head(), feature_benchmark(splits), ["nci"])
    splits["test"] = Features(splits["near"].features, torch.tensor([0, 1, 2, 3, 1, 2]))
    with pytest.raises(PluginError, match="'id/test': label 3 at row 3 is outside 0..2"):
        evaluate(tiny_head(), feature_benchmark(splits), ["nci"])
    splits["test"] = Features(splits["near"].features, torch.tensor([0, 1]))
    with pytest.raises(PluginError, match="'id/test': labels must be one whole number for each of 6 samples"):
        evaluate(tiny_head(), feature_benchmark(splits), ["nci"])


def test_logits_of_features() -> None:
    splits = feature_splits()
    splits["near"] = Features(splits["near"].features, None, torch.zeros(6, CLASSES + 1))
    with pytest.raises(PluginError, match=r"'near/near'.*logits"):
        evaluate(tiny_head(), feature_benchmark(splits), ["msp"])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": -1}, {"device": "nonsense"}])
def test_options_of_the_python_function(tiny: Tiny, options: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match=next(iter(options))):
        evaluate(tiny.loaded(), str(tiny.yaml), ["msp"], data_root=tiny.data, **{"device": "cpu", **options})


@pytest.mark.parametrize("device", [None, 1.5, torch.device("meta")])
def test_a_device_that_is_none(device: Any) -> None:
    with pytest.raises(PluginError, match="device '.*': must be auto, cuda, cuda:N, mps or cpu"):
        evaluate(tiny_head(), feature_benchmark(feature_splits()), "msp", device=device)


@pytest.mark.parametrize("network", [None, "resnet18", torch.nn.Linear, len, {"weight": torch.ones(2)}])
def test_what_is_no_network(network: Any) -> None:
    with pytest.raises(PluginError, match=r"network: must be a torch.nn.Module, got .*; pass the classifier itself"):
        evaluate(network, feature_benchmark(feature_splits()), "msp")


@pytest.mark.parametrize("detectors", [None, 5, {"msp": 1}])
def test_what_is_no_list_of_detectors(detectors: Any) -> None:
    with pytest.raises(PluginError, match="detectors: must be a name or a Detector, or a list of such, got"):
        evaluate(tiny_head(), feature_benchmark(feature_splits()), detectors)


def test_detectors_of_any_iterable(tmp_path: Path) -> None:
    benchmark = feature_benchmark(feature_splits())
    path = tmp_path / "mine.yml"
    path.write_text("postprocessor: {name: mine, detector: msp}")
    for detectors in (iter(["msp", path]), {"msp": 1, str(path): 2}.keys(), ("msp", str(path))):
        assert list(evaluate(tiny_head(), benchmark, detectors, progress=False).scores) == ["msp", "mine"]
    assert list(evaluate(tiny_head(), benchmark, path, progress=False).scores) == ["mine"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"alhpa": [1.0]}, r"'nci': sweep: unknown key 'alhpa' \(did you mean 'alpha'\?\)"),
        ({"alpha": []}, r"'nci': sweep of alpha must be a list of values, got \[\]"),
        ({"alpha": 0.1}, r"'nci': sweep of alpha must be a list of values, got 0.1"),
        ({"alpha": "0.1"}, r"'nci': sweep of alpha must be a list of values, got '0.1'"),
        ({"alpha": [0.1, "x"]}, r"'nci': alpha.*got 'x'"),
        ([0.1], r"'nci': sweep: must be a mapping"),
    ],
)
def test_sweeps_in_python(sweep: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        DetectorSetup(registry.create("nci"), sweep)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint16])
def test_whole_numbers_of_numpy_are_those_of_python(kind: type) -> None:
    made = [KNN(K=kind(5)), registry.create("knn", K=kind(5)), KNN().set_hyperparameters(K=kind(5))]
    assert [type(each.get_hyperparameters()["K"]) for each in made] == [int] * 3
    assert [type(value) for value in DetectorSetup(KNN(), {"K": [kind(5), 6]}).sweep["K"]] == [int] * 2


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, Fraction])
def test_numbers_of_other_libraries_are_those_of_python(kind: type) -> None:
    detector = registry.create("nci", alpha=kind(0.25))
    assert (type(detector.alpha), detector.alpha) == (float, 0.25)
    assert type(DetectorSetup(detector, {"alpha": [kind(0.25)]}).sweep["alpha"][0]) is float


def test_truth_values_are_no_numbers() -> None:
    for value in (True, np.True_):
        with pytest.raises(PluginError, match="K: must be a whole number"):
            registry.create("knn", K=value)


def test_a_sweep_may_be_an_array() -> None:
    assert DetectorSetup(registry.create("knn"), {"K": np.arange(1, 3)}).sweep == {"K": [1, 2]}
    assert DetectorSetup(registry.create("nci"), {"alpha": torch.tensor([0.5])}).sweep == {"alpha": [0.5]}


def tiny_head() -> LinearHead:
    return LinearHead(torch.eye(CLASSES, 5), torch.zeros(CLASSES))


def feature_splits() -> dict[str, Features]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6) % CLASSES
    rows = {name: torch.rand(6, 5, generator=generator) for name in ("train", "test", "near", "far")}
    return {name: Features(h, labels if name in ("train", "test") else None) for name, h in rows.items()}


def feature_benchmark(splits: dict[str, Features]) -> Benchmark:
    return Benchmark.from_splits(
        "features",
        CLASSES,
        train=splits["train"],
        test=splits["test"],
        near={"near": splits["near"]},
        far={"far": splits["far"]},
    )


# -------------------------------------------------------------------- checkpoints


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "legacy"])
def test_malicious_checkpoint_is_not_run(tiny: Tiny, refused: Callable[..., str], kind: str) -> None:
    path, victim = tiny.root / "evil.ckpt", tiny.root / "victim"
    content = {"fc.weight": Payload(victim)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    error = refused(tiny.eval(ckpt_path=path))
    assert not victim.exists()
    assert re.search(rf"checkpoint '{path}': .*nothing was unpickled.*state_dict\(\)", error)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut", r"cannot be read .*; fetch or train it again"),
        ("flipped", r"damaged at its member '.*data/\d+'; fetch or train it again"),
        ("empty", r"cannot be read .*; fetch or train it again"),
        ("text", r"nothing was unpickled|cannot be read .*"),
        ("directory", r"expected a checkpoint file, or a directory with s0/best.ckpt.*; pass --ckpt-path"),
        ("missing", r"pass --ckpt-path"),
        ("tensor", r"expected a state dict of named tensors; save network.state_dict\(\)"),
        ("numbers", r"expected a state dict of named tensors; save network.state_dict\(\)"),
        ("unnamed", r"expected a state dict of named tensors; save network.state_dict\(\)"),
        ("complex", r"'conv.weight' is torch.complex64, the network has torch.float32"),
        ("quantised", r"'conv.weight' is torch.int8, the network has torch.float32"),
        ("no safetensors", r"not a file of tensors.*|cannot be read .*"),
        ("nan", r"'conv.bias' holds NaN or infinity; fetch or train it again"),
    ],
)
def test_checkpoint_file(tiny: Tiny, refused: Callable[..., str], fault: str, message: str) -> None:
    path = tiny.root / ("a.safetensors" if fault == "no safetensors" else "a.ckpt")
    data = bytearray(tiny.checkpoint.read_bytes())
    weights = torch.load(tiny.checkpoint, weights_only=True)
    if fault == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif fault == "flipped":
        place = data.index(weights["fc.weight"].numpy().tobytes()) + 5
        data[place] ^= 1
        path.write_bytes(data)
    elif fault == "directory":
        path.mkdir()
    elif fault in ("empty", "text", "no safetensors"):
        path.write_bytes(b"" if fault == "empty" else b"not a checkpoint at all")
    elif fault != "missing":
        weights["conv.bias"][0] = float("nan")
        other = {"complex": torch.complex64, "quantised": torch.int8}.get(fault, torch.float32)
        cast = {**weights, "conv.weight": weights["conv.weight"].to(other)}
        contents = {"tensor": torch.zeros(3), "numbers": {"epoch": 3}, "unnamed": {**weights, 7: torch.zeros(3)}}
        torch.save(weights if fault == "nan" else contents.get(fault, cast), path)
    error = refused(tiny.eval(ckpt_path=path))
    assert re.search(rf"checkpoints? '{path}': .*({message})", error)


def test_checkpoint_of_another_network(tiny: Tiny, refused: Callable[..., str]) -> None:
    error = refused(tiny.eval(net=f"{tiny.net}:wide"))
    assert re.search(
        rf"checkpoint '{tiny.checkpoint}': does not fit TinyNet \(3 keys differ: 'conv.weight' is \(4, 3, 3, 3\), the"
        r" network has \(8, 3, 3, 3\); .*\); pass the network that it was trained with \(--net\)",
        error,
    )


def test_checkpoint_with_other_keys(tiny: Tiny, refused: Callable[..., str]) -> None:
    weights = torch.load(tiny.checkpoint, weights_only=True)
    weights["head.weight"] = weights.pop("fc.weight")
    torch.save(weights, tiny.checkpoint)
    error = refused(tiny.eval())
    assert "2 keys differ: 'fc.weight' is missing; 'head.weight' is not in the network" in error


# -------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("conv", r"head 'conv': must be a torch.nn.Linear of the network, got Conv2d; name the last linear layer"),
        ("fcc", r"head 'fcc': must be a torch.nn.Linear of the network, got no such layer; name the last linear layer"),
    ],
)
def test_head_layer(tiny: Tiny, refused: Callable[..., str], head: str, message: str) -> None:
    assert re.search(message, refused(tiny.eval(head=head)))


@pytest.mark.parametrize("head", [None, "fc"])
def test_network_that_does_not_end_in_a_linear_layer(tiny: Tiny, refused: Callable[..., str], head: str | None) -> None:
    error = refused(tiny.eval(net=f"{tiny.net}:relu_after_head", head=head))
    remedy = "let the network return that of its last linear layer as it is"
    assert re.search(rf"(ReluAfterHead|head 'fc'): .*; {remedy}", error)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("gone.py:make", r"network 'gone.py:make': there is no file 'gone.py'; expected FILE.py:FACTORY"),
        ("code/net.py:maek", r"'code/net.py' has no factory 'maek' \(did you mean 'make'\?\)"),
        ("code/net.py:NOT_A_FACTORY", r"'code/net.py' has no factory 'NOT_A_FACTORY'"),
        ("code/net.py", r"network 'code/net.py': expected FILE.py:FACTORY or package.module:factory"),
        ("no_such_module:make", r"cannot import 'no_such_module' .*; expected FILE.py:FACTORY or package"),
        ("code/net.py:raises", r"the factory failed with ValueError: no such thing"),
        ("code/net.py:makes_a_string", r"the factory must return a torch.nn.Module, got str"),
        ("code/broken.py:make", r"'code/broken.py' failed with SyntaxError"),
        ("code/raises.py:make", r"'code/raises.py' failed with ValueError: one"),
        ("code/exits.py:make", r"'code/exits.py' failed with SystemExit"),
    ],
)
def test_network_factory(tiny: Tiny, refused: Callable[..., str], net: str, message: str) -> None:
    (tiny.root / "code" / "broken.py").write_text("def make(:\n")
    (tiny.root / "code" / "raises.py").write_text("raise ValueError('one\\ntwo')\n")
    (tiny.root / "code" / "exits.py").write_text("import sys\nsys.exit('needs an argument')\n")
    assert re.search(message, refused(tiny.eval(net=net)))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("make", r"tiny.ckpt': does not fit TinyNet .*'fc.weight' is \(3, 16\), the network has \(4, 16\)"),
        ("three_classes", r"head has 3 classes, benchmark 'tiny' has 4; pass the network"),
    ],
)
def test_wrong_number_of_classes(tiny: Tiny, refused: Callable[..., str], factory: str, message: str) -> None:
    at(tiny.config, "benchmark")["num_classes"] = 4
    tiny.save_config()
    assert re.search(message, refused(tiny.eval(net=f"{tiny.net}:{factory}")))


# -------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"--batch-size: must be a whole number above 0, got 0"),
        ({"workers": -1}, r"--workers: must be a whole number.*, got -1"),
        ({"device": "nonsense"}, r"device 'nonsense': must be auto, cuda, cuda:N, mps or cpu"),
        ({"device": "meta"}, r"device 'meta': must be auto, cuda, cuda:N, mps or cpu"),
        ({"net": None}, r"benchmark 'tiny': names no network; pass --net"),
        ({"ckpt_path": None}, r"benchmark 'tiny': names no checkpoints; pass --ckpt-path"),
    ],
)
def test_options(tiny: Tiny, refused: Callable[..., str], options: dict[str, Any], message: str) -> None:
    assert re.search(message, refused(tiny.eval(**options)))


def test_no_cuda(tiny: Tiny, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert re.search(r"device 'cuda': not available here; use --device auto", refused(tiny.eval(device="cuda")))


def test_cuda_device_that_is_not_there(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(PluginError, match="device 'cuda:7'"):
        resolve_device("cuda:7")


# -------------------------------------------------------------------- the output directory


@pytest.mark.parametrize("place", ["below a file", "a file", "read-only file system"])
def test_output_that_cannot_be_written(tiny: Tiny, refused: Callable[..., str], place: str) -> None:
    file = tiny.root / "file"
    file.write_text("a file")
    output = {"below a file": file / "out", "a file": file, "read-only file system": Path("/proc/nci_plugin")}[place]
    error = refused(tiny.eval(output=output))
    assert re.search(rf"output directory '{output}': cannot write there \(.+\); .*choose another with --output", error)


@pytest.mark.parametrize("at_file", ["split.json", "msp.npz", "predictions.npz", "results.jsonl", "msp.csv"])
@pytest.mark.parametrize("call", ["open", "replace"])
def test_disk_that_runs_full(
    tiny: Tiny, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, at_file: str, call: str
) -> None:
    """The file is not there, no temporary file stays, and the same command finishes the work once there is space."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real_open, real_replace = builtins.open, os.replace

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" in mode and at_file in str(file):
            raise full
        return real_open(file, mode, *arguments, **options)

    def replaced(source: Any, target: Any) -> None:
        if Path(target).name == at_file:
            raise full
        real_replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", opened) if call == "open" else patch.setattr(os, "replace", replaced)
        assert main(tiny.eval()) == 2
    error = capfd.readouterr().err
    assert re.fullmatch(rf"nci-ood: error: cannot write '.*{at_file}': No space left on device; free .*\n", error)
    assert not list(tiny.output.rglob(at_file))
    assert not [path for path in tiny.root.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".")]
    assert main(tiny.eval()) == 0
    assert list(tiny.output.rglob(at_file))


def test_disk_that_is_full_while_a_file_is_written(
    tiny: Tiny, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert main(tiny.eval()) == 2
    assert re.fullmatch(r"nci-ood: error: cannot write '.*': No space left on device; .*\n", capfd.readouterr().err)
    assert not [path for path in tiny.root.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".")]


def test_results_of_other_weights(tiny: Tiny, refused: Callable[..., str]) -> None:
    assert main(tiny.eval()) == 0
    tiny.save_checkpoint(tiny.root / "other.ckpt", seed=5)
    error = refused(tiny.eval(ckpt_path=tiny.root / "other.ckpt"))
    assert re.search(rf"output '{tiny.output}': holds results of another run .*weights.*choose another --output", error)


def test_results_of_seeds_in_the_place_of_one_network(tiny: Tiny, refused: Callable[..., str]) -> None:
    assert main(tiny.eval()) == 0
    for seed in range(2):
        tiny.save_checkpoint(tiny.checkpoints / f"s{seed}" / "best.ckpt", seed)
    assert "holds results of another run" in refused(tiny.eval(ckpt_path=tiny.checkpoints))


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2],
        lambda line: "",
        lambda line: "[1, 2]",
        lambda line: "null",
        lambda line: line.replace('"auroc"', '"arouc"'),
        lambda line: re.sub(r'"provenance": \{.*\}', '"provenance": 3', line),
        lambda line: re.sub(r'"seed": "[^"]*"', '"seed": ["s0"]', line),
        lambda line: re.sub(r'"auroc": [\d.]+', '"auroc": "much"', line),
    ],
    ids=["cut", "empty", "list", "null", "key", "provenance", "seed", "metric"],
)
def test_damaged_results(tiny: Tiny, refused: Callable[..., str], damage: Callable[[str], str]) -> None:
    assert main(tiny.eval()) == 0
    results = tiny.output / "results.jsonl"
    lines = results.read_text().splitlines()
    lines[2] = damage(lines[2])
    results.write_text("\n".join(lines) + "\n")
    assert re.search(rf"results '{results}' line 3: .*evaluate again", refused(tiny.eval()))


def test_results_that_are_not_text(tiny: Tiny, refused: Callable[..., str]) -> None:
    assert main(tiny.eval()) == 0
    (tiny.output / "results.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    assert re.search(r"results '.*results.jsonl': not a text file", refused(tiny.eval()))


# -------------------------------------------------------------------- stored features


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop(path: Path) -> None:
    path.unlink()


def drop_split(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize(
    ("pattern", "again", "damage"),
    [
        *(("near.near2-*/00000-*", [4], damage) for damage in (flip, cut, empty, drop)),
        ("near.near2-*/00000-*", [4, 2], drop_split),
        *(("near.near2-*/00001-*", [2], damage) for damage in (flip, cut, drop)),
        *(("id.train-*/00001-*", [4], damage) for damage in (flip, cut, drop)),
        *(("id.train-*/statistics-*", [], damage) for damage in (flip, cut, drop)),
        *(("far.far-*/split.json", [], damage) for damage in (cut, empty, drop)),
    ],
)
def test_damaged_features_are_made_again(
    tiny: Tiny,
    capfd: pytest.CaptureFixture[str],
    pattern: str,
    again: list[int],
    damage: Callable[[Path], None],
) -> None:
    """Silently, and no more of them than needed. One shard holds one batch here."""
    small_k = tiny.root / "knn3.yml"
    small_k.write_text("postprocessor: {name: knn, postprocessor_args: {K: 3}}\n")
    arguments = tiny.eval("msp", "nci", str(small_k))
    assert main(arguments) == 0
    files, scores = stored(tiny.output), tree(tiny.output / "scores")
    tiny.passes()
    (path,) = (tiny.output / "features").glob(f"*/{pattern}")
    damage(path)
    capfd.readouterr()
    assert main(arguments) == 0
    assert capfd.readouterr().err == ""
    passes = tiny.passes()
    first = len(passes) - len(again)
    assert passes[first:] == again
    assert passes[:first] in ([4], [4, 4], [4, 4, 4])
    assert stored(tiny.output) == files
    assert tree(tiny.output / "scores") == scores
