"""Tests against OpenOOD itself, from $OPENOOD_ROOT, else ~/OpenOOD. Where it does not import, every file is skipped."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import ImageFile

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
