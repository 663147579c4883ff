"""YAML files -> benchmarks and detectors. An unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nci_plugin.adapters import pytorch_ood
from nci_plugin.checks import PluginError, check_keys, check_known
from nci_plugin.detectors import registry
from nci_plugin.evaluation.benchmark_files import benchmark_names, load_benchmark
from nci_plugin.evaluation.benchmark_files import parse_benchmark as parse_benchmark
from nci_plugin.evaluation.configuration import read_detector, setup_of
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.parsing import config_directory as config_directory
from nci_plugin.parsing import load_yaml

DEFAULT_DETECTORS = "all"


def detector_names() -> list[str]:
    """Every detector, the adapters' too."""
    return [*registry.names(), *pytorch_ood.names()]


def load_detector(name_or_path: str) -> DetectorSetup:
    """A detector with its hyper-parameters and their sweep, by name or from a YAML file in OpenOOD's shape.

    A name without a YAML file has the defaults of its constructor and no sweep. Nothing is imported for a name.
    """
    if name_or_path.endswith((".yml", ".yaml")):
        return read_detector(Path(name_or_path))
    if name_or_path in pytorch_ood.names():
        return pytorch_ood.load(name_or_path)
    if ":" in name_or_path and not name_or_path.startswith(pytorch_ood.PREFIX):  # FILE.py:CLASS, for evaluations
        raise PluginError(
            f"unknown detector '{name_or_path}': must be a registered name or a YAML file here, as what is made of it"
            " names no code; register its class by an entry point, or in Python by register_detector"
        )
    if name_or_path not in registry.broken():
        check_known("detector", name_or_path, detector_names())
    return setup_of(name_or_path)


def describe_config(name_or_path: str) -> tuple[str, str]:
    """Load a benchmark or a detector; returns ``benchmark`` or ``detector`` and one line about it."""
    is_file = name_or_path.endswith((".yml", ".yaml"))
    raw = load_yaml(Path(name_or_path)) if is_file else None
    if isinstance(raw, Mapping) and not {"benchmark", "postprocessor"} & set(raw):
        check_keys(f"config '{name_or_path}'", raw, ["benchmark", "postprocessor"], ["benchmark"])
    if (isinstance(raw, Mapping) and "postprocessor" in raw) or name_or_path in detector_names():
        setup = load_detector(name_or_path)
        grid = ", ".join(f"{name} in {list(values)}" for name, values in setup.sweep.items())
        chosen = ", ".join(f"{name}={value}" for name, value in setup.configured.items())
        return "detector", f"{setup.name} ({chosen or 'no hyper-parameters'}{'; search ' + grid if grid else ''})"
    if Path(name_or_path).is_dir() and name_or_path not in benchmark_names():
        raise PluginError(f"'{name_or_path}': is a folder; 'nci-ood eval' checks it itself, pass a name or a YAML file")
    if not is_file:
        check_known("benchmark or detector", name_or_path, [*benchmark_names(), *detector_names()])
    benchmark = load_benchmark(name_or_path)
    return "benchmark", f"{benchmark.name}, {benchmark.num_classes} classes, splits {', '.join(benchmark.splits)}"
