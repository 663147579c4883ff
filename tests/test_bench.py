"""The measuring scripts through their command lines, with tiny sizes: the form of what they report, not its values."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "scripts" / "bench"
SCRIPTS = sorted(path.stem for path in BENCH.glob("*.py") if "def main(" in path.read_text(encoding="utf-8"))
IMAGES = ["--workload=small", "--train=60", "--test=60", "--width=16", "--batch-size=50"]


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The scripts as Python finds them when one is run: beside one another."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--directory={tmp_path_factory.mktemp('images')}"


@pytest.fixture
def measure(tmp_path: Path, one_thread: None) -> Callable[..., dict[str, Any]]:
    """Runs a script's command line and returns the report that it wrote."""

    def run(name: str, *arguments: str) -> dict[str, Any]:
        path = tmp_path / "report.json"
        importlib.import_module(name).main([*arguments, f"--json={path}"])
        assert [each.name for each in tmp_path.iterdir()] == [path.name], "nothing half written"
        return json.loads(path.read_text(encoding="utf-8"))

    return run


def assert_positive(report: dict[str, Any], *names: str) -> None:
    ratios = [name for name in report if "_over_" in name]
    assert ratios
    for name in (*names, *ratios):
        assert report[name] > 0, name


def test_scoring(measure: Callable[..., dict[str, Any]]) -> None:
    report = measure("scoring", "--samples=300", "--features=16", "--classes=4", "--rounds=1")
    assert_positive(report, "nci_reads_GB_per_s", "copy_GB_per_s")
    assert report["largest_difference"] < 1e-4


def test_memory(measure: Callable[..., dict[str, Any]]) -> None:
    report = measure("memory", "--sizes", "1200", "--features=8", "--classes=3")
    assert_positive(report)
    assert list(report["peak_MB"]) == ["1200"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_neighbours(measure: Callable[..., dict[str, Any]]) -> None:
    report = measure("neighbours", "--sizes", "60", "120", "--features=8", "--queries=5")
    assert list(report["grown_MB"]) == ["60", "120"]


def test_collapse(measure: Callable[..., dict[str, Any]]) -> None:
    report = measure("collapse", "--samples=300", "--features=16", "--classes=4")
    assert report["shape"] == [300, 16, 4]
    assert report["seconds"].keys() == {"updates", "products", "measure"}


def test_comparison(measure: Callable[..., dict[str, Any]]) -> None:
    report = measure("comparison", "--detectors=3", "--samples=160", "--networks=2")
    assert report["shape"] == [3, 160, 2, 1000]
    assert report["differences"] == 6
    for name in ("auroc", "fpr95", "augrc"):
        assert report[f"{name}_seconds"] > 0


def test_golden_agreement(measure: Callable[..., dict[str, Any]]) -> None:
    report = measure("golden_agreement", "--detectors", "nci", "msp", "pytorch_ood:she")
    assert report["failures"] == {}
    assert report["detectors_compared"] == 3
    assert report["largest_differences"]["nci"] < 0.005


def test_per_image(measure: Callable[..., dict[str, Any]], images: str) -> None:
    report = measure("per_image", *IMAGES, images, "--training=60", "--alone=2", "--rounds=1")
    for detector in ("nci", "msp", "knn"):
        names = [f"{detector}_{form}_ms_per_image" for form in ("in_batches", "alone")]
        assert_positive(report, *names)
    assert report["sizes"]["images"] == 12


def test_extraction(measure: Callable[..., dict[str, Any]], images: str) -> None:
    report = measure("extraction", *IMAGES, images, "--rounds=1")
    assert_positive(report, "bare_s", "stored_images_per_second")
    assert {"stored_over_bare", "statistics_over_bare"} <= set(report)


def test_service(measure: Callable[..., dict[str, Any]]) -> None:
    sizes = ["--image-size=32", "--batch-sizes", "1", "4", "--rounds=1"]
    report = measure("service", "--networks", "resnet18", "vit_tiny", "--detectors", "nci_plus", "msp", *sizes)
    names = [f"{network}_{size}_bare_ms" for network in ("resnet18", "vit_tiny") for size in (1, 4)]
    assert_positive(report, *names)
    assert "vit_tiny_4_nci_plus_added_ms" in report


def test_growth(measure: Callable[..., dict[str, Any]], images: str) -> None:
    report = measure("growth", *IMAGES, images, "--rounds=1", "--detectors", "nci", "msp", "knn", "mls")
    assert_positive(report, "another_value_s")
    passed = report["images_passed"]
    assert passed["first_run"] >= 60 + 6 + 6 + 12 + 12 + 12
    # What was stored is looked at again with a few images; of what is new each image is passed once.
    assert passed["run_with_another_data_set"] == passed["run_again"] + 12
    assert passed["run_with_all_detectors"] == passed["run_again"]
    assert set(report["detector_s"]) == {"nci", "msp", "knn", "mls"}


def test_evaluation(measure: Callable[..., dict[str, Any]], images: str) -> None:
    report = measure("evaluation", *IMAGES, images, "--detectors", "nci", "msp")
    assert_positive(report, "extraction_s", "evaluation_s")
    assert report["failures"] == {}
    assert report["sizes"]["images"] == 60  # statistics are all that these detectors need of the training images


def test_pytorch_ood(measure: Callable[..., dict[str, Any]], images: str) -> None:
    classes = ["MaxSoftmax", "NCI", "KNN", "Mahalanobis"]
    report = measure("pytorch_ood_pipeline", *IMAGES, images, "--rounds=1", "--detectors", *classes)
    assert_positive(report, "ours_s", "theirs_s", "shared_s")
    assert report["detectors"] == classes
    # A pair of images in another order is 100 / (12 * 12) percent: scores differ by rounding alone.
    assert report["largest_auroc_difference"] < 3 * 100 / 144
    passed, (train, test, ood) = report["images_passed"], (60, 12, 3 * 12)
    assert passed["theirs"] > passed["shared"] > passed["ours"] >= train + test + ood


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: ")


def test_table() -> None:
    """Parts that give numbers, that cannot run and that fail."""
    all_parts, part_list = (importlib.import_module(name) for name in ("all_parts", "part_list"))
    good = part_list.Part("c", "scoring", "scoring.py", ["--samples=50", "--features=8", "--classes=2", "--rounds=1"])
    bad = part_list.Part("d", "memory", "no_such_script.py")
    none = part_list.Part("a", "replay", "replay.py", skip="no OpenOOD")
    records = [all_parts.run(part) for part in (none, good, bad)]
    assert records[0] == {"part": "a", "name": "replay", "script": "replay.py", "skipped": "no OpenOOD"}
    assert_positive(records[1]["report"])
    assert "No such file" in records[2]["failed"]
    table = all_parts.table(records)
    assert "| (a) replay  | skipped" in table
    assert "| (c) scoring | textbook over nci" in table
    assert "| (d) memory  | failed" in table


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_part_that_takes_too_long_leaves_nothing_behind(tmp_path: Path) -> None:
    """Not the processes that it started either, which would run beside the next part."""
    all_parts, part_list = (importlib.import_module(name) for name in ("all_parts", "part_list"))
    script = tmp_path / "long.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    record = all_parts.run(part_list.Part("a", "long", str(script)), most=10.0)
    assert record["skipped"] == "it takes more than 10 s"
    child = int((tmp_path / "child").read_text())
    for _ in range(100):  # until whoever inherited it has seen its end
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} lives on")


def test_one_file_for_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    all_parts = importlib.import_module("all_parts")
    output = tmp_path / "bench"
    arguments = ["--quick", "--only", "regimes.py", f"--output={output}", f"--results={tmp_path}"]
    assert all_parts.main(arguments) == 0
    assert [path.name for path in output.iterdir()] == ["bench.json"]
    report = json.loads((output / "bench.json").read_text(encoding="utf-8"))
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["cpu"]
    assert report["machine"]["libraries"]["torch"]
    assert "no diagnosed results" in report["parts"][0]["skipped"]
    assert "no diagnosed results" in capsys.readouterr().out


def test_failed_parts_are_an_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_parts = importlib.import_module("all_parts")
    monkeypatch.setattr(all_parts, "run", lambda part: {"part": part.letter, "name": part.name, "failed": "so it is"})
    assert all_parts.main(["--only", "scoring.py", f"--output={tmp_path}"]) == 1
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["parts"][0]["failed"] == "so it is"


def test_synthetic_jpeg_images_for_the_large_network(tmp_path: Path) -> None:
    workload = importlib.import_module("workload")
    report = tmp_path / "report.json"
    arguments = ["--workload=large", "--train=3", "--test=10", f"--directory={tmp_path}", f"--json={report}"]
    workload.main(arguments)
    work = json.loads(report.read_text(encoding="utf-8"))
    assert work["images"] == {
        "id/train": 3,
        "id/val": 1,
        "id/test": 2,
        "ood/val": 1,
        "near/first": 2,
        "near/second": 2,
        "far/third": 2,
    }
    files = sorted(Path(work["directory"]).rglob("*.jpeg"))
    assert len(files) == 13
    assert len({path.read_bytes() for path in files}) == 13
    stamps = [path.stat().st_mtime_ns for path in files]
    workload.main(arguments)
    assert [path.stat().st_mtime_ns for path in files] == stamps, "what is there is used again"


def test_processes(measure: Callable[..., dict[str, Any]], images: str) -> None:
    report = measure("processes", *IMAGES, images, "--processes", "1", "2")
    assert_positive(report, "process_1_over_processes_2")
    assert report["features_identical"] is True


def test_quick_run(tmp_path: Path) -> None:
    """Everything, as the shell script starts it."""
    command = [sys.executable, str(BENCH / "all_parts.py"), "--quick", f"--output={tmp_path}", f"--results={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert not [each for each in report["parts"] if "failed" in each]
    assert {each["part"] for each in report["parts"]} == set("abcdef")
    for each in report["parts"]:
        assert all(value > 0 for name, value in each.get("report", {}).items() if "_over_" in name), each


def test_device_scoring(measure: Callable[..., dict[str, Any]]) -> None:
    sizes = ["--samples=60", "--bank=60", "--features=8", "--classes=3", "--rounds=1"]
    assert_positive(measure("device_scoring", "--device=cpu", *sizes), "copy_GB_per_s", "knn_images_per_second")


def test_training_on_packs(tmp_path: Path, one_thread: None) -> None:
    """What packing wrote, a network of one channel, and what it left: statistics in float64, features in float16."""
    workload, packing, training = (importlib.import_module(name) for name in ("workload", "packing", "training"))
    paths = {name: tmp_path / name for name in ("images", "packs", "out", "work.json", "packs.json", "training.json")}
    sizes = ["--workload=small", "--train=40", "--test=60", "--width=8"]
    workload.main([*sizes, f"--directory={paths['images']}", f"--json={paths['work.json']}"])
    root = json.loads(paths["work.json"].read_text(encoding="utf-8"))["directory"]
    packs = [f"--packs={paths['packs']}", f"--json={paths['packs.json']}", f"--data-root={root}", "--train=30"]
    packing.main([f"{root}/benchmark.yml", *packs])
    assert json.loads(paths["packs.json"].read_text(encoding="utf-8"))["images"]["id/train"] == 30
    out = [f"--out={paths['out']}", f"--json={paths['training.json']}", "--device=cpu", "--epochs=1", "--width=1"]
    training.main([f"--packs={paths['packs']}", *out])
    report = json.loads(paths["training.json"].read_text(encoding="utf-8"))
    assert report["epochs"] == 1
    assert report["rows_kept"]["id.train"] == 30
    with np.load(paths["out"] / "statistics.npz") as statistics:
        assert statistics["within_scatter"].dtype == np.float64
        assert statistics["counts"].sum() == 30
    assert report["rows_left_out"] == 0
    with np.load(paths["out"] / "near.npz") as near:
        assert near["names"].tolist() == ["near/first", "near/second"]
        assert len(near["data_set"]) == report["images"]["near/first"] + report["images"]["near/second"]
    with np.load(paths["out"] / "id.test.npz") as test:
        assert test["features"].dtype == np.float16
        assert len(test["features"]) == len(test["labels"]) == report["images"]["id/test"]


def test_gpu(tmp_path: Path) -> None:
    """The script for a GPU, on the CPU in small sizes, and what it says where there is none."""
    script = str(BENCH / "gpu.sh")
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

    def started(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", script, f"--output={tmp_path}", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False
        )

    if not torch.cuda.is_available():
        refused = started()
        assert refused.returncode == 2
        assert "there is no GPU here; nothing was measured" in refused.stderr
    done = started("--device", "cpu", "--quick", "--workers=0", "--minutes=25")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {each["part"] for each in report["parts"]} == set("abcde")
    assert not [each for each in report["parts"] if "failed" in each]
    assert "no --packs" in report["parts"][-1]["skipped"]
    passed = {each["name"]: each["report"] for each in report["parts"] if "report" in each}
    assert passed["tests marked device"]["tests_passed"] > 0
    assert passed["scoring against a copy"]["nci_over_copy"] > 0
    assert sum(name.startswith("extraction") for name in passed) == 6


def test_shared_scoring(measure: Callable[..., dict[str, Any]]) -> None:
    sizes = ["--bank=300", "--rows=200", "--features=110"]
    report = measure("shared_scoring", "--processes", "1", "2", *sizes)
    assert_positive(report, "processes_1_s", "processes_2_s")
    assert report["scores_identical"] is True
