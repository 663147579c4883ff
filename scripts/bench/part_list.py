"""The parts of `bench.sh`: which script measures what, with which sizes, and where a part cannot run."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

SCRIPTS = (
    "replay.py",
    "pytorch_ood_pipeline.py",
    "golden_agreement.py",
    "extraction.py",
    "per_image.py",
    "scoring.py",
    "memory.py",
    "neighbours.py",
    "collapse.py",
    "processes.py",
    "growth.py",
    "evaluation.py",
    "regimes.py",
    "comparison.py",
    "service.py",
)

WORKLOADS = {
    "quick": [["--workload=digits", "--train=100", "--test=150", "--width=16"]],
    "full": [["--workload=digits", "--width=32"]],
    "cuda": [
        ["--workload=small", "--train=50000", "--test=60000", "--width=64"],
        ["--workload=large", "--train=20000", "--test=10000"],
    ],
}
"""Images and network by what was asked for: on a GPU, ResNet-18 on 32x32 images and ResNet-50 at 224x224."""

EXTRACTED = ["--workload=small", "--train=5000", "--test=3000", "--width=16"]
"""What extraction is measured on in a full run without a GPU: 8,000 images."""

LIGHT_DETECTORS = ["MaxSoftmax", "MaxLogit", "EnergyBased", "NCI", "KNN", "Entropy", "GEN", "ViM", "fDBD", "NNGuide"]
"""For 1000 classes: those of pytorch-ood whose own time does not grow with classes times features squared."""


@dataclass(frozen=True)
class Part:
    """A run of one script; ``skip`` says why it cannot run here, empty where it can."""

    letter: str
    name: str
    script: str
    arguments: Sequence[str] = ()
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)
    skip: str = ""


def parts(options: argparse.Namespace) -> list[Part]:
    """What is to be run, in the order of the letters."""
    wanted = set(options.only or SCRIPTS)
    listed = [*_without_images(options, wanted), *_on_images(options)]
    return sorted((part for part in listed if part.script in wanted), key=lambda part: part.letter)


def _without_images(options: argparse.Namespace, wanted: set[str]) -> Iterator[Part]:
    """The parts that have their own input."""

    def sizes(quick: Sequence[str], full: Sequence[str] = ()) -> Sequence[str]:
        return quick if options.quick else full

    if "replay.py" in wanted:
        what = "all methods from one pass, against OpenOOD's evaluator"
        yield with_openood("a", what, "replay.py", sizes(["--width=8", "--most=60"], ["--most=400"]))
    golden = "" if (ROOT / "tests" / "golden").is_dir() else f"there is no {ROOT / 'tests' / 'golden'}"
    yield Part("a", "agreement with OpenOOD's stored answers", "golden_agreement.py", skip=golden)
    yield Part("c", "scoring alone", "scoring.py", sizes(["--samples=4000", "--rounds=3"]))
    small = ["--features=512", "--classes=100"]
    yield Part("d", "memory of fitting", "memory.py", sizes(["--sizes", "5000", "20000", *small]))
    linux = "" if sys.platform == "linux" else "reads /proc, which only Linux has"
    yield Part("d", "memory of KNN", "neighbours.py", sizes(["--sizes", "5000", "10000"]), skip=linux)
    yield Part("d", "collapse metrics", "collapse.py", sizes(["--samples=10000", *small], ["--samples=100000"]))
    yield Part("f", "comparing detectors", "comparison.py", sizes(["--detectors=4", "--samples=4000"]))
    small_service = ["--networks", "resnet18", "--batch-sizes", "1", "8", "--image-size", "32", "--rounds", "1"]
    small_service += ["--detectors", "msp", "nci", "nci_gated"]
    device = [f"--device={options.device}"]
    yield Part("c", "a detector beside its classifier", "service.py", [*device, *sizes(small_service)])
    diagnosed = sorted({str(path.parent) for path in options.results.glob("*/diagnosis")})
    none = "" if diagnosed else f"no diagnosed results in {options.results} (nci-ood diagnose)"
    yield Part("f", "stored diagnoses side by side", "regimes.py", diagnosed, skip=none)


def with_openood(letter: str, what: str, script: str, arguments: Sequence[str]) -> Part:
    """A part that runs where OpenOOD imports."""
    # One thread: the scores of both sides are then equal to the last bit.
    environment = {"OMP_NUM_THREADS": "1", "OPENOOD_ROOT": str(openood_root())}
    python = openood_python()
    skip = f"no OpenOOD checkout that imports at {openood_root()} (OPENOOD_ROOT; scripts/test.sh --openood)"
    return Part(letter, what, script, arguments, python or sys.executable, environment, "" if python else skip)


def _on_images(options: argparse.Namespace) -> Iterator[Part]:
    """The parts that pass images, once for each workload."""

    def sizes(quick: Sequence[str]) -> Sequence[str]:
        return quick if options.quick else ()

    on_cuda = options.device.startswith("cuda")
    for load in WORKLOADS["quick" if options.quick else "cuda" if on_cuda else "full"]:
        kind = _kind(load)
        machine = [f"--directory={options.output / 'images'}", f"--device={options.device}"]
        machine.append(f"--workers={options.workers}")
        where = [*load, *machine]
        own = ["--detectors", *LIGHT_DETECTORS] if kind == "large" else []
        rounds = ["--rounds=3"] if kind == "large" or options.quick else []
        # So many images that finding the head, which passes eight of them twice, takes no measurable share.
        many = EXTRACTED if load is WORKLOADS["full"][0] else load
        pytorch_ood = f"all methods from one pass, against pytorch-ood's Benchmark ({kind})"
        yield Part("a", pytorch_ood, "pytorch_ood_pipeline.py", [*where, *own])
        yield Part(
            "b", f"extraction, against the bare loop ({_kind(many)})", "extraction.py", [*many, *machine, *rounds]
        )
        per_image = [*where, *sizes(["--training=5000", "--alone=20", "--rounds=3"])]
        yield Part("c", f"end to end per image ({kind})", "per_image.py", per_image)
        # A shard is at least a batch: smaller ones can be shared evenly.
        batches = ["--batch-size=50"] if kind == "digits" else []
        yield Part("e", f"many processes ({kind})", "processes.py", [*where, *batches])
        yield Part("f", f"cost of more ({kind})", "growth.py", [*where, *sizes(["--rounds=1"])])
        yield Part("f", f"evaluation over extraction ({kind})", "evaluation.py", where)


def _kind(load: Sequence[str]) -> str:
    return load[0].partition("=")[2]


def openood_root() -> Path:
    return Path(os.environ.get("OPENOOD_ROOT") or Path.home() / "OpenOOD")


def openood_python() -> str | None:
    """This Python or that of .venv-openood, whichever imports OpenOOD; None if neither does."""
    if not (openood_root() / "openood" / "evaluation_api" / "evaluator.py").is_file():
        return None
    environment = {**os.environ, "PYTHONPATH": str(openood_root())}
    for python in (sys.executable, str(ROOT / ".venv-openood" / "bin" / "python")):
        command = [python, "-c", "import openood.evaluation_api"]
        if Path(python).is_file() and not subprocess.run(command, env=environment, capture_output=True).returncode:
            return python
    return None
