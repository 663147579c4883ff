"""A detector's hyper-parameters and their sweep, from a YAML file in OpenOOD's shape. An unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nci_plugin.checks import PluginError, check_keys, shown
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import DetectorSetup
from nci_plugin.parsing import read_yaml


def load_yaml(path: Path) -> Any:
    """Parse a YAML file; raises PluginError naming the file and the line."""
    try:
        return read_yaml(path, "config", "correct it")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PluginError(f"config '{path}': {error.strerror}") from None


def load_postprocessor(path: Path) -> Any:
    """What a YAML file holds under its only key, ``postprocessor``; raises PluginError if it holds anything else."""
    raw = load_yaml(path)
    check_keys(f"config '{path}'", raw, ["postprocessor"], ["postprocessor"])
    return raw["postprocessor"]


def parse_detector(raw: Mapping[str, Any], where: str) -> DetectorSetup:
    """A detector from the mapping under ``postprocessor:``; errors (PluginError) begin with ``where``."""
    check_keys(where, raw, ["name", "APS_mode", "postprocessor_args", "postprocessor_sweep"], ["name"])
    detector = registry.create(str(raw["name"]))
    arguments = raw.get("postprocessor_args") or {}
    check_keys(f"{where}: postprocessor_args", arguments, detector.hyperparameter_names())
    detector.set_hyperparameters(**arguments)
    sweep = raw.get("postprocessor_sweep") or {}
    allowed = [f"{name}_list" for name in detector.hyperparameter_names()]
    check_keys(f"{where}: postprocessor_sweep", sweep, allowed)
    grid = {key[: -len("_list")]: values for key, values in sweep.items()}
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise PluginError(f"{where}: {name}_list must be a list of values, got {shown(values)}")
        for value in values:
            detector.clone().set_hyperparameters(**{name: value})
    if not isinstance(raw.get("APS_mode", False), bool):
        raise PluginError(f"{where}: APS_mode must be True or False, got {shown(raw['APS_mode'])}")
    return DetectorSetup(detector, grid if raw.get("APS_mode", False) else {})
