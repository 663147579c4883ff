"""The plugin's names in OpenOOD's registries of postprocessors and recorders. Importing this module imports openood."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import openood.recorders
from openood.evaluation_api import postprocessor as evaluation_api
from openood.evaluation_api.datasets import DATA_INFO
from openood.postprocessors import utils as pipelines
from openood.postprocessors.info import num_classes_dict
from openood.postprocessors.nci_postprocessor import NCIPostprocessor
from openood.utils.config import Config

from nci_plugin.adapters.openood.postprocessor import DetectorPostprocessor
from nci_plugin.adapters.openood.recorder import COLLAPSE, CollapseRecorder
from nci_plugin.checks import PluginError
from nci_plugin.detectors import registry
from nci_plugin.evaluation.configuration import (
    POSTPROCESSORS,
    config_directory,
    load_postprocessor,
    unshipped_files,
)

NCI, OPENOODS_NCI = "nci", "nci_builtin"
OPENOODS_NAMES = frozenset(evaluation_api.postprocessors)
OPENOODS_DATA_SETS = frozenset(num_classes_dict)

_by_name = evaluation_api.get_postprocessor
_by_config = pipelines.get_postprocessor
_recorder = openood.recorders.get_recorder
_temporary = tempfile.TemporaryDirectory(prefix="nci_plugin-")

GENERATED = Path(_temporary.name, POSTPROCESSORS)
"""Until the process ends: YAML files of detectors that none ships for here, each of which a path can so name."""


def register(override: bool) -> None:
    """Make every detector a postprocessor of OpenOOD, with a YAML file, and add the recorder.

    Names that OpenOOD has itself stay its own, but ``nci`` becomes the plugin's with ``override``, and OpenOOD's again
    without; ``nci_builtin`` is always OpenOOD's. The last call counts.
    """
    GENERATED.mkdir(exist_ok=True)
    for name, text in unshipped_files().items():
        (GENERATED / f"{name}.yml").write_text(text, encoding="utf-8")
    ours = [name for name in registry.names() if name not in OPENOODS_NAMES]
    evaluation_api.postprocessors.update(dict.fromkeys(ours, DetectorPostprocessor))
    evaluation_api.postprocessors[NCI] = DetectorPostprocessor if override else NCIPostprocessor
    evaluation_api.postprocessors[OPENOODS_NCI] = NCIPostprocessor
    _replace(_by_name, get_by_name)
    _replace(_by_config, get_by_config)
    _replace(_recorder, get_recorder)


def get_by_name(config_root: str, postprocessor_name: str, id_data_name: str) -> Any:
    """As the evaluation API's ``get_postprocessor``; the plugin's YAML files are found without a download.

    The user's ``config_root/postprocessors/<name>.yml`` comes first, then the shipped one, then that of `GENERATED`.
    """
    _complete_num_classes(id_data_name, DATA_INFO.get(id_data_name, {}).get("num_classes"))
    if not _is_ours(postprocessor_name):
        return _by_name(config_root, postprocessor_name, id_data_name)
    path = _find_config(Path(config_root) / "postprocessors", postprocessor_name)
    config = Config({"postprocessor": load_postprocessor(path), "dataset": {"name": id_data_name}})
    postprocessor = _construct(postprocessor_name, config, f"config '{path}'")
    if not isinstance(postprocessor, DetectorPostprocessor):
        postprocessor.APS_mode = config.postprocessor.APS_mode
        postprocessor.hyperparam_search_done = False
    elif postprocessor.name != postprocessor_name:
        raise PluginError(
            f"config '{path}': its name must be '{postprocessor_name}', as its file's, got '{postprocessor.name}'"
        )
    return postprocessor


def get_by_config(config: Config) -> Any:
    """As the pipelines' ``get_postprocessor``, for a config that has the postprocessor's YAML in it."""
    _complete_num_classes(config.dataset.name, config.dataset.num_classes)
    name = config.postprocessor.name
    return _construct(name, config, f"config of postprocessor '{name}'") if _is_ours(name) else _by_config(config)


def get_recorder(config: Config) -> Any:
    """As OpenOOD's own, which knows its recorders by name; ``collapse`` is this package's, around one of those."""
    return CollapseRecorder(config, _recorder) if config.recorder.name == COLLAPSE else _recorder(config)


def _is_ours(name: str) -> bool:
    return name == OPENOODS_NCI or evaluation_api.postprocessors.get(name) is DetectorPostprocessor


def _construct(name: str, config: Config, where: str) -> Any:
    return NCIPostprocessor(config) if name == OPENOODS_NCI else DetectorPostprocessor(config, where)


def _find_config(directory: Path, name: str) -> Path:
    shipped = config_directory() / POSTPROCESSORS
    names = [name, NCI] if name == OPENOODS_NCI else [name]  # OpenOOD's NCI is configured as ours is
    candidates = [place / f"{each}.yml" for place in (directory, shipped, GENERATED) for each in names]
    return next((path for path in candidates if path.is_file()), candidates[-1])


def _complete_num_classes(data_set: str | None, num_classes: int | None) -> None:
    """Tell OpenOOD's own postprocessors the number of classes of a data set that is not one of its four."""
    if data_set and num_classes and data_set not in OPENOODS_DATA_SETS:
        num_classes_dict[data_set] = num_classes


def _replace(old: Any, new: Any) -> None:
    """Put ``new`` wherever a module of OpenOOD holds ``old`` by name; those imported later find it there."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "openood":
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)
