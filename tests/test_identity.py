"""A results directory holds one run: whatever its numbers came from, when it differs, is named before the pass."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import COUNTS, Tiny, draw_nothing
from torch import nn
from torch.utils.data import TensorDataset

from nci_plugin import Benchmark, Features, PluginError, evaluate
from nci_plugin.benchmarks import image_digests
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark
from nci_plugin.detectors import registry
from nci_plugin.evaluation.identify import code_digest, data_identity, method_digest
from nci_plugin.evaluation.identity import FIELDS, disagreements, unrecorded
from nci_plugin.evaluation.results import Result, read_results
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.features.fingerprint import network_digest
from nci_plugin.files import digest

pytestmark = pytest.mark.usefixtures("one_thread")

EARLIER = Path(__file__).parent / "earlier_results"
"""Rows and scores that an earlier version wrote: their provenance has no code, precision, images and preprocessing."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    return Tiny(tmp_path, seeds=2)


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """The one line of a command that is refused."""

    def run(arguments: list[str]) -> str:
        capfd.readouterr()
        assert main(arguments) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        return error

    return run


def rewrite(path: Path, seed: int) -> None:
    """Other pixels in as many bytes, a second later."""
    size, time = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else (None, 0)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "BMP")
    assert size in (None, path.stat().st_size)
    os.utime(path, ns=(time + 10**9, time + 10**9))


def as_bmp(tiny: Tiny, split: str) -> list[Path]:
    paths = [tiny.image(split, index) for index in range(COUNTS[split])]
    for index, path in enumerate(paths):
        path.unlink()
        rewrite(path, index)
    return paths


# -------------------------------------------------------------------- what differs is named


NAMES = {
    "train": "id/train",
    "val": "id/val",
    "test": "id/test",
    "oodval": "ood/val",
    "near": "near/near",
    "csid": "csid/csid",
}


@pytest.mark.parametrize("split", NAMES)
def test_other_images_of_the_same_size(tiny: Tiny, refused: Callable[[list[str]], str], split: str) -> None:
    paths = as_bmp(tiny, split)
    assert main(tiny.eval("msp", "mds_pp")) == 0
    before = (tiny.output / "results.jsonl").read_bytes()
    tiny.passes()
    rewrite(paths[2], 100)
    error = refused(tiny.eval("neco"))
    assert f"(images of '{NAMES[split]}' differ); choose another --output, or move them away" in error
    assert sum(tiny.passes()) <= 8, "the head was sought, and nothing more"
    assert (tiny.output / "results.jsonl").read_bytes() == before
    assert main(tiny.eval("neco", output=tiny.root / "out2")) == 0


DOUBLE = """

def double(num_classes=3):
    network = TinyNet(num_classes)
    network.gain = 2
    return network
"""


@pytest.mark.parametrize(
    "change", ["factory file", "another factory", "another file of the same code", "a class's helper"]
)
def test_other_code_under_the_same_checkpoint(tiny: Tiny, refused: Callable[[list[str]], str], change: str) -> None:
    source = f"{tiny.net.read_text()}{DOUBLE}"
    tiny.net.write_text(source)
    assert main(tiny.eval()) == 0
    net = f"{tiny.net}:make"
    if change == "factory file":
        tiny.net.write_text(
            source.replace("return TinyNet(num_classes)", "return TinyNet(num_classes).double().float()", 1)
        )
    elif change == "a class's helper":
        tiny.net.write_text(source.replace("return self.fc(h)", "return self.fc(2 * h)"))
    elif change == "another factory":
        net = f"{tiny.net}:double"
    else:
        net = f"{shutil.copy(tiny.net, tiny.root / 'copied.py')}:make"
        assert main(tiny.eval(net=net)) == 0, "the same bytes in another place"
        return
    assert "(the network's code differ)" in refused(tiny.eval(net=net))


@pytest.mark.parametrize("first", ["none", "bf16"])
def test_other_precision(tiny: Tiny, refused: Callable[[list[str]], str], first: str) -> None:
    precisions = ["none", "bf16"] if first == "none" else ["bf16", "none"]
    assert main(tiny.eval(amp=precisions[0])) == 0
    names = [name.replace("none", "float32") for name in precisions]
    assert f"(the precision, {names[1]} for {names[0]} differ)" in refused(tiny.eval(amp=precisions[1]))


def test_other_preprocessing_labels_order_and_sets(tiny: Tiny, refused: Callable[[list[str]], str]) -> None:
    assert main(tiny.eval()) == 0
    lines = tiny.list("val").read_text().splitlines(keepends=True)
    tiny.list("val").write_text("".join([lines[1], lines[0], *lines[2:]]))
    assert "(images of 'id/val' differ)" in refused(tiny.eval())
    tiny.list("val").write_text("".join([lines[0].replace(" 0", " 1"), *lines[1:]]))
    assert "(images of 'id/val' differ)" in refused(tiny.eval())
    tiny.list("val").write_text("".join(lines))
    tiny.config["benchmark"]["ood"]["far"]["far"]["preprocessing"] = {"normalization": [[0.4] * 3, [0.5] * 3]}
    tiny.save_config()
    assert "(preprocessing of 'far/far' differ)" in refused(tiny.eval())
    del tiny.config["benchmark"]["ood"]["far"]["far"]["preprocessing"]
    tiny.save_config()
    assert "'csid/csid' (which are not there now)" in refused([*tiny.eval(), "--csid", "none"])
    assert main(tiny.eval("mls")) == 0, "nothing differs any more"


def test_weights_are_those_of_each_seed(tiny: Tiny, refused: Callable[[list[str]], str]) -> None:
    options = {"ckpt_path": tiny.checkpoints}
    assert main(tiny.eval(**options)) == 0
    assert main(tiny.eval("mls", **options)) == 0
    tiny.save_checkpoint(tiny.checkpoints / "s1" / "best.ckpt", seed=7)
    assert "(the weights of s1 differ)" in refused(tiny.eval("mls", **options))


def test_diagnose_writes_into_the_same_run_alone(tiny: Tiny, refused: Callable[[list[str]], str]) -> None:
    paths = as_bmp(tiny, "train")
    assert main(tiny.eval()) == 0
    rewrite(paths[0], 50)
    arguments = tiny.eval()
    at = arguments.index("--detectors")
    assert "(images of 'id/train' differ)" in refused(["diagnose", *arguments[1:at], *arguments[at + 2 :]])


# -------------------------------------------------------------------- what does not differ


def test_batch_size_workers_and_place_do_not_count(tiny: Tiny) -> None:
    assert main(tiny.eval()) == 0
    shutil.copytree(tiny.data, tiny.root / "elsewhere")  # with other times
    for path in (tiny.root / "elsewhere").rglob("*.png"):
        os.utime(path, ns=(5, 5))
    assert main(tiny.eval("mls", batch_size=3, data_root=tiny.root / "elsewhere")) == 0
    rows = read_results(tiny.output / "results.jsonl")
    assert {row.detector for row in rows} == {"msp", "mls"}
    assert not disagreements([(row.seed, row.provenance) for row in rows])
    assert set(FIELDS) <= set(rows[0].provenance)


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of image files that are hashed from now on."""
    read: list[str] = []
    original = image_digests.read_file

    def counted(path: Path, what: str, *others: Any) -> bytes:
        if what == "image":
            read.append(path.name)
        return original(path, what, *others)

    monkeypatch.setattr(image_digests, "read_file", counted)
    return read


def test_only_touched_images_are_read_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = open_splits(load_benchmark(str(tiny.yaml)).with_data_root(tiny.data))
    read = read_files(monkeypatch)
    first = data_identity(splits, tiny.root / "cache")
    assert len(read) == sum(COUNTS.values())
    read.clear()
    assert data_identity(splits, tiny.root / "cache") == first
    assert read == []
    os.utime(tiny.image("near2", 3), ns=(7, 7))
    assert data_identity(splits, tiny.root / "cache") == first
    assert read == ["3.png"]
    for path in (tiny.root / "cache").iterdir():  # a damaged file is as good as none
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    read.clear()
    assert data_identity(splits, tiny.root / "cache") == first
    assert len(read) == sum(COUNTS.values())
    assert data_identity(splits, None) == first


def test_an_image_rewritten_within_its_size_and_time(tiny: Tiny, refused: Callable[[list[str]], str]) -> None:
    """Stored features know it by these, so it is refused until it is touched."""
    path = as_bmp(tiny, "far")[1]
    assert main(tiny.eval()) == 0
    time = path.stat().st_mtime_ns
    rewrite(path, 60)
    os.utime(path, ns=(time, time))
    error = refused(tiny.eval())
    assert f"image '{path}': its bytes changed, but neither its size nor its time of modification" in error
    os.utime(path)
    assert "(images of 'far/far' differ)" in refused(tiny.eval())


@pytest.mark.parametrize("kind", ["fifo", "directory", "missing", "device"])
def test_what_is_no_image_file(tiny: Tiny, kind: str) -> None:
    splits = open_splits(load_benchmark(str(tiny.yaml)).with_data_root(tiny.data))
    path = tiny.image("val", 1)
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(PluginError, match=r"image '.*val/1\.png'"):
        data_identity(splits, None)


# -------------------------------------------------------------------- in Python


def changed(golden: Any, split: str) -> Benchmark:
    benchmark = golden.benchmark()
    source = benchmark.splits[split]
    assert isinstance(source, Features)
    features = source.features.clone()
    features[0, 0] += 1e-3
    return replace(benchmark, splits={**benchmark.splits, split: replace(source, features=features)})


@pytest.mark.parametrize("split", ["id/train", "id/val", "far/far"])
def test_features_are_known_by_their_bytes(golden: Any, tmp_path: Path, split: str) -> None:
    options: dict[str, Any] = {"output": tmp_path, "progress": False}
    evaluate(golden.head, golden.benchmark(), "msp", **options)
    evaluate(golden.head, golden.benchmark(), "mls", **options)
    with pytest.raises(PluginError, match=rf"\(images of '{split}' differ\); choose another --output"):
        evaluate(golden.head, changed(golden, split), "nci", **options)


def test_datasets_cannot_be_known_again(tmp_path: Path, tiny: Tiny) -> None:
    data = TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6) % 3)
    benchmark = Benchmark.from_splits("mine", 3, test=data, near={}, far={"noise": data})
    options: dict[str, Any] = {"output": tmp_path / "out", "progress": False, "device": "cpu"}
    evaluate(tiny.network(), benchmark, "msp", **options)
    with pytest.raises(PluginError, match="a Dataset or a list in Python cannot be known again"):
        evaluate(tiny.network(), benchmark, "mls", **options)


def test_code_of_a_network_in_python(tiny: Tiny) -> None:
    network = tiny.network()
    again = tiny.network()
    assert code_digest(network, "", {}) == code_digest(again, "", {})
    again.note = lambda: None
    assert code_digest(network, "", {}) == code_digest(again, "", {})
    assert code_digest(network, "", {}) != code_digest(nn.Sequential(network), "", {})
    assert code_digest(network, "", {"gain": 1}) != code_digest(network, "", {"gain": 2})


class Described(nn.Module):
    """Its repr holds the address of a function, as those of many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


def test_addresses_in_a_repr_do_not_count() -> None:
    one, other = Described(), Described()
    assert repr(one) != repr(other)
    assert code_digest(one, "", {}) == code_digest(other, "", {})
    here = torch.device("cpu")
    assert network_digest(one, here, 1) == network_digest(other, here, 1), "stored features would never be read again"


def test_a_setting_is_known_by_its_detector_too() -> None:
    """The same name and no hyper-parameters: what one of them has finished is not the other's."""
    one, again, other = (
        method_digest(DetectorSetup(registry.create(name), name="mine")) for name in ("msp", "msp", "mls")
    )
    assert one == again != other


# -------------------------------------------------------------------- rows of earlier versions, and mixed ones


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "earlier"))


def test_rows_of_an_earlier_version_are_read(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = "identity not recorded: code, precision, images, preprocessing"
    rows = read_results(earlier / "results.jsonl")
    assert unrecorded([row.provenance for row in rows]) == note
    assert main(["report", str(earlier)]) == 0
    assert capsys.readouterr().out.count(note) == 1
    assert (earlier / "report.html").read_text().count(note) == 1
    assert main(["leaderboard", "rank", str(earlier)]) == 0
    out = capsys.readouterr().out
    assert out.count(note) == 1
    assert "nci" in out


def test_rows_of_an_earlier_version_are_not_written_to(earlier: Path, golden: Any) -> None:
    before = (earlier / "results.jsonl").read_bytes()
    with pytest.raises(PluginError, match=r"identity not recorded: code, .*; choose another --output"):
        evaluate(golden.head, golden.benchmark(), "mls", output=earlier, progress=False)
    assert (earlier / "results.jsonl").read_bytes() == before


MIXED: dict[str, tuple[dict[str, Any], str]] = {
    "images": ({"images": {"id/train": "1" * 32}}, "images of 'id/train'"),
    "code": ({"code": "1" * 32}, "the network's code"),
    "precision": ({"precision": "bf16"}, "the precision, bf16 for float32"),
    "weights": ({"weights": "1" * 32}, "the weights of its network"),
    "data": ({"data": "1" * 32}, "data"),
}


@pytest.mark.parametrize("field", MIXED)
@pytest.mark.parametrize("arguments", [["report"], ["leaderboard", "rank"]], ids=["report", "rank"])
def test_rows_that_disagree(
    earlier: Path, refused: Callable[[list[str]], str], field: str, arguments: list[str]
) -> None:
    recorded = {"code": "0" * 32, "precision": "float32", "images": {"id/train": "0" * 32}}
    rows = [replace(row, provenance={**row.provenance, **recorded}) for row in read_results(earlier / "results.jsonl")]
    assert {row.detector for row in rows} == {"msp", "nci"}
    differing, words = MIXED[field]
    rows = [replace(row, provenance={**row.provenance, **differing}) if row.detector == "nci" else row for row in rows]
    (earlier / "results.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows))
    error = refused([*arguments, str(earlier)])
    assert f"its rows are of different runs ({words} differ); evaluate again into another directory" in error


def test_checksums_of_rows_of_an_earlier_version(earlier: Path) -> None:
    line = json.loads((earlier / "results.jsonl").read_text().splitlines()[0])
    checksum = line.pop("checksum")
    assert checksum == digest(json.dumps(line))
    assert isinstance(Result.from_json(json.dumps({**line, "checksum": checksum})), Result)
