"""How Sphinx builds this documentation: ``bash scripts/docs.sh``. Nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import docstrings  # noqa: E402
import generated  # noqa: E402

from nci_plugin import __version__  # noqa: E402

project = "nci_plugin"
author = "the nci_plugin authors"
project_copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = False
default_role = "code"
smartquotes = False  # the options of commands begin with two hyphens

html_theme = "furo"
html_title = f"nci_plugin {release}"
html_static_path: list[str] = []
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # the studies' generated tables begin at their own level

# The tutorials run in every build, each in a folder of its own, and an error in one is an error of the build.
nb_execution_mode = "force"
nb_execution_excludepatterns = ["tutorials/cifar10.ipynb"]  # needs CIFAR-10: a slow test runs it, as it is stored
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True


def setup(app: Any) -> None:
    generated.write(HERE / "reference" / "generated")
    app.connect("autodoc-process-docstring", docstrings.to_restructured_text)
    app.connect("autodoc-process-signature", docstrings.short_signature)
