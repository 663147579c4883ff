"""Tests against OpenOOD itself, from $OPENOOD_ROOT, else ~/OpenOOD. Where it does not import, every file is skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageFile
from torch.utils.data import DataLoader

import nci_plugin
from nci_plugin.adapters.openood.checkout import ENVIRONMENT_VARIABLE, import_openood, is_checkout
from nci_plugin.checks import PluginError


@cache
def reason_to_skip() -> str | None:
    """Why OpenOOD does not import here; None when it is imported and its checkout is on sys.path."""
    home = Path.home() / "OpenOOD"
    path = [*sys.path]
    with pytest.MonkeyPatch.context() as patch:
        # OpenOOD lets Pillow accept truncated images in the whole process; our other tests need them refused.
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
        if not os.environ.get(ENVIRONMENT_VARIABLE) and is_checkout(home):
            patch.setenv(ENVIRONMENT_VARIABLE, str(home))
        try:
            import_openood()
        except PluginError as error:  # half an import must not be seen by other tests
            sys.path[:] = path
            for name in [name for name in sys.modules if name.split(".")[0] == "openood"]:
                del sys.modules[name]
            return str(error)
    return None


def pytest_make_collect_report(collector: pytest.Collector) -> pytest.CollectReport | None:
    """Skip a test file before it is imported, so that it can import openood at its top."""
    if not isinstance(collector, pytest.Module) or (reason := reason_to_skip()) is None:
        return None
    return pytest.CollectReport(collector.nodeid, "skipped", (str(collector.path), 1, f"Skipped: {reason}"), [])


@pytest.fixture(scope="module")
def script_host() -> Iterator[None]:
    """No download; OpenOOD's 8 loader processes would take longer to start than a few images take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
        patch.setattr(sys, "path", [*sys.path])
        for name in ("urllib.request.urlretrieve", "gdown.download", "torch.hub.download_url_to_file"):
            patch.setattr(name, _refuse)
        make = DataLoader.__init__
        patch.setattr(DataLoader, "__init__", lambda *args, **options: make(*args, **{**options, "num_workers": 0}))
        yield
        nci_plugin.register(override=False)


def _refuse(*arguments: Any, **options: Any) -> None:
    raise AssertionError(f"download {arguments}")
