"""``nci-ood doctor``: what this installation has, and what of it does not work."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from nci_plugin import __version__, api
from nci_plugin.adapters.openood.checkout import find_checkout, import_openood
from nci_plugin.adapters.openood.roots import find_roots
from nci_plugin.checks import PluginError
from nci_plugin.cli.tool_commands import Doctor
from nci_plugin.config import load_benchmark
from nci_plugin.detectors import registry
from nci_plugin.evaluation.benchmark_files import BUILT_IN
from nci_plugin.inputs import MissingInputs, find_inputs, official_benchmarks
from nci_plugin.report.terminal import with_prose

LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn", "pytorch-ood", "timm")


def run(options: Doctor) -> int:
    openood, openood_fails = _openood()
    broken = registry.broken()
    rows = [
        ["nci_plugin", f"{__version__} in {Path(__file__).parents[1]}"],
        ["Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"],
        ["libraries", ", ".join(_versions())],
        ["device", _device()],
        ["memory", _memory()],
        ["disk", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GB free in {Path.cwd()}"],
        ["detectors", f"not loaded: {', '.join(broken)}" if broken else f"{len(registry.names())} registered"],
        ["OpenOOD", openood],
        *([name, _inputs(name)] for name in (*BUILT_IN, *official_benchmarks())),
    ]
    print(with_prose(rows))
    failed = [name for name, fails in (("OpenOOD", openood_fails), ("detectors", bool(broken))) if fails]
    print(f"\n{'does not work: ' + ', '.join(failed) if failed else 'what is installed works'}")
    return 1 if failed else 0


def _memory() -> str:
    free = api.free_memory()
    return "the system does not say how much is free" if free == sys.maxsize else f"{free / 2**30:.1f} GB free"


def _versions() -> Sequence[str]:
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return versions


def _device() -> str:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
        return ", ".join(f"cuda:{place} ({name})" for place, name in enumerate(names))
    kind = "mps" if torch.backends.mps.is_available() else "cpu"
    return f"{kind}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; no CUDA device"


def _openood() -> tuple[str, bool]:
    """Where OpenOOD is and whether it can be imported; True if it is there and does not work."""
    try:
        checkout = find_checkout()
        if checkout is None:
            return "not found; its methods and benchmarks need a checkout, all else does not (OPENOOD_ROOT)", False
        import_openood()
    except PluginError as error:
        return str(error), True
    return f"{checkout}, can be imported", False


def _inputs(name: str) -> str:
    """What of a benchmark's data and checkpoints is there."""
    try:
        roots = find_roots(name)
        inputs = find_inputs(load_benchmark(name), roots)
    except MissingInputs as error:
        made = "; made by the first 'nci-ood eval digits'" if name in BUILT_IN else ""
        return f"not ready: {error.summary}{made}"
    except PluginError as error:
        return f"not ready: {error}"
    images = sum(map(len, inputs.splits.values()))
    return f"ready: {images} images, {len(inputs.checkpoints)} checkpoints in {inputs.checkpoint_path}"
