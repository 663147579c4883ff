"""The names that `import nci_plugin` offers, and what importing them loads."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nci_plugin

PACKAGE = Path(nci_plugin.__file__).parent


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys; print(' '.join(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == nci_plugin._PUBLIC
    for alias in (alias for node in imports for alias in node.names):
        assert alias.asname == alias.name  # else mypy takes it for no public name


def test_every_public_name_is_there_and_shown() -> None:
    assert set(nci_plugin.__all__) == {"__version__", *nci_plugin._PUBLIC} <= set(dir(nci_plugin))
    for name in nci_plugin.__all__:
        assert getattr(nci_plugin, name) is getattr(nci_plugin, name)
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = nci_plugin.evaluat


@pytest.mark.parametrize("name", [name for name in nci_plugin.__all__ if name != "__version__"])
def test_every_public_name_and_method_has_a_docstring(name: str) -> None:
    item = getattr(nci_plugin, name)
    assert inspect.getdoc(item)
    classes = inspect.getmro(item) if inspect.isclass(item) else ()
    for cls in (cls for cls in classes if cls.__module__.startswith("nci_plugin")):
        for key, value in vars(cls).items():
            if not key.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{cls.__name__}.{key}"


def test_what_evaluating_loads() -> None:
    """Neither figures nor OpenOOD, nor what only Unix has; importing the package alone loads nothing that is large."""
    assert not {"torch", "numpy"} & loaded_by("import nci_plugin")
    loaded = loaded_by("from nci_plugin import evaluate")
    assert {"nci_plugin", "torch"} <= loaded
    assert not {"matplotlib", "openood", "jinja2"} & loaded


def test_help_loads_no_library() -> None:
    loaded = loaded_by("from nci_plugin.cli.parser import make_parser; make_parser().format_help()")
    assert not {"torch", "numpy", "yaml", "filelock"} & loaded


def test_what_a_notebook_prints_is_one_short_line() -> None:
    import torch

    from nci_plugin import Benchmark, Features, LinearHead
    from nci_plugin.collapse import measure
    from nci_plugin.dynamics.trajectory import EpochRecord, Trajectory
    from nci_plugin.features.statistics import ClassStatistics

    features, labels = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)), torch.arange(500) % 10
    rows = Features(features, labels)
    head = LinearHead(torch.ones(10, 64), torch.zeros(10))
    statistics = ClassStatistics(10, 64).update(features, labels)
    benchmark = Benchmark.from_splits("b", 10, train=rows, test=rows, near={"a": Features([[1.0]])}, far={})
    shown = [rows, head, benchmark, measure(statistics, head), Trajectory("r", {}, [EpochRecord(3)]), benchmark.splits]
    assert [repr(each) for each in shown[:3]] == [
        "Features(500 x 64, labelled)",
        "LinearHead(64 features to 10 classes)",
        "Benchmark('b', 10 classes, splits: id/train, id/test, near/a)",
    ]
    assert repr(shown[4]) == "Trajectory('r', 1 records, 3 to 3)"
    for each in shown:
        assert len(repr(each)) < 200
        assert "\n" not in repr(each)
