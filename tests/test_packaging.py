"""What is shipped: the source distribution and the wheel are built and installed, without the network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from nci_plugin import __version__
from nci_plugin.installation import SCRIPTS

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "data", "results")
TOP_LEVEL = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "setup.cfg"}


def build(checkout: Path, kind: str, folder: Path) -> Path:
    """Build a distribution of ``kind``, sdist or wheel, with the setuptools that is installed."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)]
    output = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300, check=True).stdout
    return folder / output.splitlines()[-1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution of a copy of the checkout, and the wheel that is built from it alone."""
    folder = tmp_path_factory.mktemp("distributions")
    checkout = folder / "checkout"
    checkout.mkdir()
    for path in ROOT.iterdir():  # data/ and results/ of the checkout alone: the package has folders of these names
        if path.is_dir() and not NOT_SOURCE(str(ROOT), [path.name]):
            shutil.copytree(path, checkout / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, checkout)
    source = build(checkout, "sdist", folder)
    with tarfile.open(source) as archive:
        archive.extractall(folder)
    return source, build(folder / f"nci_plugin-{__version__}", "wheel", folder)


def expected_package() -> set[str]:
    """Every file of the package as it is installed."""
    names = {str(path.relative_to(ROOT)) for path in (ROOT / "nci_plugin").rglob("*") if path.is_file()}
    names = {name for name in names if "__pycache__" not in name}
    configs = {f"nci_plugin/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yml")}
    return names | configs | {f"nci_plugin/scripts/{name}" for name in SCRIPTS}


def test_source_distribution_has_what_it_needs_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    package = {re.sub("^nci_plugin/(configs|scripts)/", r"\1/", name) for name in expected_package()}
    metadata = {name for name in names if name.startswith("nci_plugin.egg-info/")}
    assert names - metadata == package | TOP_LEVEL | {"pyproject.toml"}


def test_wheel_has_the_package_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert {name for name in names if ".dist-info/" not in name} == expected_package()
    assert any(re.search(r"\.dist-info/(licenses/)?LICENSE$", name) for name in names)
    lines = metadata.split("\n\n", 1)[0].splitlines()
    assert f"Version: {__version__}" in lines
    assert "License: MIT" in lines or "License-Expression: MIT" in lines
    assert {f"Classifier: Programming Language :: Python :: 3.{minor}" for minor in range(9, 14)} <= set(lines)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_distribution_installs_and_runs(distributions: tuple[Path, Path], kind: str, tmp_path: Path) -> None:
    """Into a folder of its own, whose package then runs with the libraries that are installed."""
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"]
    archive = str(distributions[("sdist", "wheel").index(kind)])
    subprocess.run([*install, "--target", str(target), archive], check=True, capture_output=True, timeout=300)

    def output(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(target)}
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(output("-c", "import nci_plugin; print(nci_plugin.__file__)").strip()).is_relative_to(target)
    assert output("-m", "nci_plugin", "--version") == f"nci_plugin {__version__}\n"
    assert output(str(target / "bin" / "nci-ood"), "--version") == f"nci_plugin {__version__}\n"
    assert "cifar10 " in output("-m", "nci_plugin", "list")
    assert output("-m", "nci_plugin", "validate", "digits", "nci").count(": valid ") == 2


def test_the_version_is_the_same_everywhere() -> None:
    assert f"\nversion = {__version__}\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
