"""Where OpenOOD's checkout is, and its import. OpenOOD is not on the package index: its users have a checkout."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from PIL import ImageFile

from nci_plugin.benchmarks.decoding import CutOffImages
from nci_plugin.checks import PluginError

ENVIRONMENT_VARIABLE = "OPENOOD_ROOT"
LANDMARK = Path("openood", "evaluation_api", "evaluator.py")
"""A file that only a checkout of OpenOOD from v1.5 on has."""


def is_checkout(directory: Path) -> bool:
    return (directory / LANDMARK).is_file()


def find_checkout() -> Path | None:
    """The checkout of OpenOOD: the working directory, the directory that this package was copied into, the one that
    ``OPENOOD_ROOT`` names, or that of an importable ``openood``; None where there is none.

    Raises PluginError if ``OPENOOD_ROOT`` is needed and names something else.
    """
    for directory in (Path.cwd(), Path(__file__).parents[3]):
        if is_checkout(directory):
            return directory
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if not is_checkout(Path(named).expanduser()):
            raise PluginError(
                f"{ENVIRONMENT_VARIABLE} '{named}': is no checkout of OpenOOD v1.5 (it has no {LANDMARK}); correct it"
            )
        return Path(named).expanduser().resolve()
    spec = importlib.util.find_spec("openood")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if is_checkout(Path(location).parent):
            return Path(location).parent
    return None


def import_openood() -> Path:
    """Make ``openood`` importable and import it; returns its checkout.

    Its data sets read truncated images, as they do on its own; all else in this process refuses them as before.

    Raises PluginError if there is no checkout, or if one of the libraries that it needs is missing.
    """
    root = find_checkout()
    if root is None:
        raise PluginError(
            f"OpenOOD: no checkout found; run inside one, or set {ENVIRONMENT_VARIABLE} to one"
            " (git clone https://github.com/Jingkang50/OpenOOD)"
        )
    if str(root) not in sys.path:
        sys.path.insert(1, str(root))  # behind the running script's directory
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES  # the import changes it for the whole process
    try:
        importlib.import_module("openood.evaluation_api")
        importlib.import_module("openood.postprocessors")
    except Exception as error:  # one of its many dependencies is missing or of a version that it cannot use
        raise PluginError(
            f"OpenOOD in '{root}': cannot be imported ({type(error).__name__}: {error}); install what it needs:"
            " pip install -e '.[openood]' in this plugin's checkout, then pip install --no-build-isolation libmr"
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    base = importlib.import_module("openood.datasets.base_dataset").BaseDataset
    if not hasattr(base.__getitem__, "__wrapped__"):
        base.__getitem__ = _truncated_allowed(base.__getitem__)
    return root


def _truncated_allowed(read: Callable[..., Any]) -> Callable[..., Any]:
    """The reading of an item of OpenOOD's data sets, which, and only they, read truncated images."""
    allowed = CutOffImages(read=True)

    @wraps(read)
    def reading(*arguments: Any) -> Any:
        with allowed:
            return read(*arguments)

    return reading
