"""A detector's hyper-parameters and their sweep, from a YAML file in OpenOOD's shape. An unknown key is an error.

A detector needs no file: one that has none has the defaults of its constructor, and nothing is searched.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nci_plugin.checks import PluginError, check_keys, check_row_name, shown
from nci_plugin.detectors import registry
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.parsing import config_directory, load_yaml

POSTPROCESSORS = "postprocessors"
"""The directory of detectors' files, as OpenOOD calls it."""


def load_postprocessor(path: Path) -> Any:
    """What a YAML file holds under its only key, ``postprocessor``; raises PluginError if it holds anything else."""
    raw = load_yaml(path)
    check_keys(f"config '{path}'", raw, ["postprocessor"], ["postprocessor"])
    return raw["postprocessor"]


def parse_detector(raw: Mapping[str, Any], where: str) -> DetectorSetup:
    """A detector from the mapping under ``postprocessor:``; errors (PluginError) begin with ``where``.

    ``name`` is the detector's, or a name of the user's for this setting of the detector that ``detector`` names.
    """
    keys = ["name", "detector", "APS_mode", "postprocessor_args", "postprocessor_sweep"]
    check_keys(where, raw, keys, ["name"])
    name = str(raw["name"])
    detector = registry.create(str(raw.get("detector", name)))
    arguments = raw.get("postprocessor_args") or {}
    check_keys(f"{where}: postprocessor_args", arguments, detector.hyperparameter_names())
    detector.set_hyperparameters(**arguments)
    sweep = raw.get("postprocessor_sweep") or {}
    allowed = [f"{name}_list" for name in detector.hyperparameter_names()]
    check_keys(f"{where}: postprocessor_sweep", sweep, allowed)
    grid = {key[: -len("_list")]: values for key, values in sweep.items()}
    for hyperparameter, values in grid.items():
        if not isinstance(values, list) or not values:
            raise PluginError(f"{where}: {hyperparameter}_list must be a list of values, got {shown(values)}")
    if not isinstance(raw.get("APS_mode", False), bool):
        raise PluginError(f"{where}: APS_mode must be True or False, got {shown(raw['APS_mode'])}")
    registry.check_name_of(detector, name, where)
    setup = DetectorSetup(detector, grid, check_row_name(f"{where}: name", name))
    return setup if raw.get("APS_mode", False) else replace(setup, sweep={})


# -------------------------------------------------------------------- a registered detector's own file


def file_of(name: str) -> Path | None:
    """The YAML file of a registered detector: a shipped one, or ``<name>.yml`` beside its module; None without one."""
    beside = getattr(sys.modules.get(registry.detector_class(name).__module__), "__file__", None)
    places = [config_directory() / POSTPROCESSORS, *([Path(beside).parent] if beside else [])]
    return next((path for place in places if (path := place / f"{name}.yml").is_file()), None)


def unshipped_files() -> dict[str, str]:
    """The YAML, as OpenOOD reads it, of every registered detector that none ships for here, by name.

    It is that of the file beside a detector's module, or one that has no more than its name.
    """
    shipped = config_directory() / POSTPROCESSORS
    files = {name: file_of(name) for name in registry.names() if not (shipped / f"{name}.yml").is_file()}
    implied = "postprocessor:\n  name: {}\n  APS_mode: False\n"
    return {name: path.read_text(encoding="utf-8") if path else implied.format(name) for name, path in files.items()}


def setup_of(name: str) -> DetectorSetup:
    """A registered detector as its YAML says; raises PluginError on an unknown name and a wrong file."""
    path = file_of(name)
    if path is None:
        return DetectorSetup(registry.create(name))
    setup = read_detector(path)
    if setup.name != name:
        raise PluginError(f"config '{path}': its name must be '{name}', as its file's, got '{setup.name}'")
    return setup


def read_detector(path: Path) -> DetectorSetup:
    """A detector from a YAML file; raises PluginError naming the file."""
    return parse_detector(load_postprocessor(path), f"config '{path}'")
