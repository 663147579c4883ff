"""Everything that only a GPU can show, within eight minutes, as one JSON file; `gpu.sh` starts it.

    python scripts/bench/gpu.py [--device cuda] [--output DIR] [--minutes M] [--packs DIR] [--quick]

In turn: the tests marked ``device``; scoring in GB/s against a copy; OpenOOD's replayed methods against the CPU's
scores; extraction against the bare loop for ResNet-18 at 32x32 and ResNet-50 and ViT-B/16 at 224x224, in float32 and
bfloat16, with the channels last and not; and in the time that is left OpenOOD's training recipe on ``--packs``. A part
that cannot run here, or for which the time does not do, is skipped with a line that says why; the others go on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from all_parts import describe, run, table, this_machine
from part_list import Part, with_openood

from nci_plugin.checks import PluginError, check_writable
from nci_plugin.features.options import default_workers, resolve_device
from nci_plugin.files import write_atomically

SIZES = {
    "small": ["--train=20000", "--test=10000", "--width=64", "--batch-size=500"],
    "large": ["--train=2000", "--test=1000", "--batch-size=100"],
    "vit": ["--train=2000", "--test=1000", "--batch-size=100"],
}
QUICK = {
    "small": ["--train=60", "--test=60", "--width=8", "--batch-size=20"],
    "large": ["--train=1", "--test=6", "--batch-size=2"],
    "vit": ["--train=1", "--test=6", "--batch-size=2"],
}
NETWORKS = {"small": "ResNet-18, 32x32", "large": "ResNet-50, 224x224", "vit": "ViT-B/16, 224x224"}
PART_SECONDS = 90.0
"""What a part but the last may take; with ``--quick``, on a CPU, a vision transformer takes longer."""

FLOAT32 = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Products and convolutions of float32 are that, without TF32 of 10 bits; of all parts but the training."""

TRAINING_SECONDS, AROUND_TRAINING = 60.0, 40.0
"""Less than that is no training, and what reading images before it and the pass after it take."""


def parts(options: argparse.Namespace) -> Iterator[Part]:
    device, rounds = f"--device={options.device}", "--rounds=1" if options.quick else "--rounds=2"
    no_pytest = "" if importlib.util.find_spec("pytest") else "pytest is not installed"
    yield Part("a", "tests marked device", "device_tests.py", skip=no_pytest)
    small = ["--samples=500", "--bank=300", "--features=16", "--classes=5", "--rounds=1"] if options.quick else []
    yield Part("b", "scoring against a copy", "device_scoring.py", [device, *small])
    few = ["--rows=60", "--methods", "msp", "knn"] if options.quick else []
    yield with_openood("c", "replayed methods against the CPU's", "device_replay.py", [device, *few])
    images = f"--directory={options.images}"
    for load, title in NETWORKS.items():
        for amp in ("none", "bf16"):
            where = [f"--workload={load}", *(QUICK if options.quick else SIZES)[load], device, f"--amp={amp}"]
            workers = f"--workers={options.workers}"
            named = f"extraction against the bare loop ({title}, {'float32' if amp == 'none' else amp})"
            yield Part("d", named, "extraction.py", [*where, images, workers, rounds])


def training(options: argparse.Namespace, seconds: float) -> Part:
    """The last part, in the seconds that are left."""
    skip = "" if options.packs else "no --packs (scripts/bench/packing.py makes them)"
    if not skip and seconds < TRAINING_SECONDS and not options.quick:
        skip = f"{seconds:.0f} s are left, it takes {TRAINING_SECONDS:.0f}"
    short = ["--epochs=1", "--width=4"] if options.quick else []
    out = options.output / "features"
    where = [f"--packs={options.packs}", f"--out={out}", f"--device={options.device}", f"--seconds={seconds:.0f}"]
    return Part("e", "OpenOOD's training recipe, shortened", "training.py", [*where, *short], skip=skip)


def main(arguments: list[str] | None = None) -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cuda", help="(cuda)")
    made.add_argument("--output", type=Path, default=Path("results/bench"), metavar="DIR", help="(results/bench)")
    made.add_argument("--minutes", type=float, default=8.0, metavar="M", help="after which nothing more begins (8)")
    made.add_argument("--spent", type=float, default=0.0, metavar="S", help="seconds of them that are over already (0)")
    made.add_argument("--packs", type=Path, metavar="DIR", help="images to train on, as packing.py writes them")
    made.add_argument("--workers", type=int, default=default_workers(), metavar="N", help="loader processes (by cores)")
    made.add_argument("--quick", action="store_true", help="small sizes: does all of it work?")
    options = made.parse_args(arguments)
    started = time.monotonic() - options.spent
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu.py: there is no GPU here; nothing was measured", file=sys.stderr)
        return 2
    try:
        options.device = str(resolve_device(options.device))
        check_writable(options.output)
    except PluginError as error:
        made.error(str(error))
    machine, done = this_machine(options.device), []
    asked = {**{name: getattr(options, name) for name in ("quick", "device", "workers", "minutes")}, **FLOAT32}

    def left() -> float:
        return 60 * options.minutes - (time.monotonic() - started)

    def add(part: Part, most: float) -> None:
        """Run a part and write all that are done: what comes later cannot take them away."""
        done.append(run(part, most))
        report = {"machine": machine, "options": asked, "parts": done, "seconds": round(time.monotonic() - started, 1)}
        write_atomically(options.output / "gpu.json", json.dumps(report, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as options.images:
        for part in parts(options):
            limited = left() if options.quick else min(PART_SECONDS, left())
            add(replace(part, environment={**part.environment, **FLOAT32}), limited)
    add(training(options, left() - AROUND_TRAINING), left())
    print(table(done))
    print(f"\n{describe(machine)}\nwritten to {options.output / 'gpu.json'}")
    return 1 if any("failed" in each for each in done) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a part started is ended too
    sys.exit(main())
