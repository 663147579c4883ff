"""OpenOOD's own scripts, run as they are: without a GPU too, and without running code from a pickle that they find."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import runpy
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import torch

from nci_plugin.adapters.openood.checkout import import_openood, is_checkout
from nci_plugin.adapters.openood.device import cuda_on
from nci_plugin.adapters.openood.scores import SCORE_BYTES, is_whole
from nci_plugin.adapters.openood.unpickling import only_data_is_unpickled
from nci_plugin.checks import PluginError
from nci_plugin.files import read_file

logger = logging.getLogger(__name__)


def find_script(name: str) -> Path:
    """A script below the working directory, else below OpenOOD's checkout; its path is absolute.

    Raises PluginError if it is in neither, or if another checkout's openood is the one that imports.
    """
    root = import_openood()
    for path in (Path.cwd() / name, root / name):
        if path.is_file():
            break
    else:
        raise PluginError(f"script '{name}': there is no such file in the working directory or in '{root}'")
    own = next((parent for parent in path.parents if is_checkout(parent)), None)
    imported = Path(next(iter(importlib.import_module("openood").__path__))).resolve()
    if own is not None and (own / "openood").resolve() != imported:
        raise PluginError(f"script '{path}': belongs to another checkout than '{imported}'; run it inside its own")
    return path


def with_shipped_configs(arguments: Iterable[str], shipped: Path) -> list[str]:
    """The arguments; where one names a ``postprocessors/<name>.yml`` that is not there, the plugin's in its place."""
    replaced = []
    for argument in arguments:
        path = Path(argument)
        ours = shipped / path.name
        if path.suffix == ".yml" and path.parent.name == shipped.name and not path.exists() and ours.is_file():
            logger.info("config: %s is not there, using %s", argument, ours)
            argument = str(ours)
        replaced.append(argument)
    return replaced


def run_script(script: Path, arguments: Sequence[str], device: torch.device, trust_pickles: bool) -> int:
    """Run a script as ``python SCRIPT ARGUMENTS`` does, with OpenOOD on ``device``; returns its exit code.

    Its exceptions are its own. Raises PluginError if it unpickles more than data (see `only_data_is_unpickled`), unless
    ``trust_pickles``.
    """
    stdout: Any = _LeftOpen(sys.stdout)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [str(script), *arguments]))
        stack.enter_context(mock.patch.object(sys, "path", [str(script.parent), *sys.path]))
        stack.enter_context(contextlib.redirect_stdout(stdout))
        if not trust_pickles:
            stack.enter_context(only_data_is_unpickled())
        stack.enter_context(cuda_on(device))
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as exit:
            if exit.code is None or isinstance(exit.code, int):
                return exit.code or 0
            print(exit.code, file=sys.stderr)
            return 1
    return 0


class _LeftOpen:
    """A stream that is not closed: OpenOOD's logger closes the standard output when it is thrown away."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        self._stream.flush()


# -------------------------------------------------------------------- pickles


def found_pickles(script: Path, arguments: Sequence[str]) -> list[Path]:
    """The files that one of OpenOOD's evaluation scripts would unpickle: postprocessors and scores of earlier runs."""
    directories = DIRECTORIES.get(script.name)
    if directories is None:
        return []
    try:
        options = _parser().parse_known_args(arguments)[0]
    except argparse.ArgumentError:  # the script will say so
        return []
    names = [f"{kind}/{options.postprocessor}.pkl" for kind in ("postprocessors", "scores")]
    return [path for root in directories(script, options) for name in names if (path := root / name).is_file()]


def is_known(path: Path) -> bool:
    """Whether a pickle is a score file as this package wrote it, which the script may read."""
    return is_whole(read_file(path, "score file", SCORE_BYTES, "move it away"))


def _runs(script: Path, options: argparse.Namespace) -> list[Path]:
    return sorted(Path(options.root).glob("s*")) if options.root else []


def _imagenet(script: Path, options: argparse.Namespace) -> list[Path]:
    if options.tvs_pretrained:
        return [_results(script) / f"imagenet_{options.arch or 'resnet50'}_tvsv{options.tvs_version}_base_default"]
    return [Path(options.ckpt_path).parent] if options.ckpt_path else []


def _foundation_models(script: Path, options: argparse.Namespace) -> list[Path]:
    arch = (options.arch or "ViT-B/16").replace("/", "-")
    return [_results(script) / f"imagenet_{options.model_type}_{arch}"]


def _results(script: Path) -> Path:
    return script.parent / ".." / "results"  # as the scripts write it: their directory may be a link


DIRECTORIES: dict[str, Callable[[Path, argparse.Namespace], list[Path]]] = {
    "eval_ood.py": _runs,
    "attack_ood.py": _runs,
    "eval_ood_imagenet.py": _imagenet,
    "eval_ood_imagenet_foundation_models.py": _foundation_models,
}
"""Where each script looks for pickles of earlier runs."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def _parser() -> argparse.ArgumentParser:
    """Those options of the scripts that say where they look, with their defaults."""
    parser = _Parser(add_help=False)
    for name in ("--root", "--ckpt-path", "--arch"):
        parser.add_argument(name)
    parser.add_argument("--postprocessor", default="msp")
    parser.add_argument("--tvs-version", default="1")
    parser.add_argument("--model-type", default="clip")
    parser.add_argument("--tvs-pretrained", action="store_true")
    return parser
