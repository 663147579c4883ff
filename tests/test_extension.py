"""Detectors from outside the package: entry points, files named on the command line, two settings of one detector."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Tiny

import nci_plugin
from nci_plugin import Detector, DetectorSetup, FitsOn, Paper, PluginError, register_detector
from nci_plugin.adapters.openood.methods import METHODS
from nci_plugin.api import resolve_detectors
from nci_plugin.cli.main import main
from nci_plugin.config import load_detector
from nci_plugin.deploy.fitting import new_detector
from nci_plugin.detectors import NCI, registry
from nci_plugin.evaluation.configuration import file_of, unshipped_files
from nci_plugin.installation import _contents
from nci_plugin.testing import check_detector

DETECTOR = '''
from nci_plugin import Detector, FitsOn, Paper, register_detector

class {cls}(Detector):
    """Score = max_k z_k - alpha ||h - mu_G||_2 (an example, 2026)."""

    name = "{name}"
    paper = Paper("An example", "Author", "Venue", 2026, "https://example.org")
    fits_on = FitsOn.STATISTICS

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def _fit(self, training, head, validation):
        self.mean_ = training.global_mean

    def _score(self, features, logits):
        return logits.amax(dim=1) - self.alpha * (features - self.mean_.to(features)).norm(dim=1)
'''
YAML = "postprocessor: {name: theirs, APS_mode: True, postprocessor_sweep: {alpha_list: [0.1, 0.2]}}\n"
ENTRY_POINTS = """
[nci_plugin.detectors]
theirs = others_ood.detectors:Theirs
plain = others_ood.registering
broken = others_ood.raising:Nothing
no_class = others_ood.detectors:FitsOn
taken = others_ood.detectors:Taken
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a package of someone else's is installed."""
    site = tmp_path_factory.mktemp("site")
    package, info = site / "others_ood", site / "others_ood-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("")
    taken = DETECTOR.format(cls="Taken", name="nci").partition("register_detector\n")[2]
    (package / "detectors.py").write_text(DETECTOR.format(cls="Theirs", name="theirs") + taken)
    (package / "theirs.yml").write_text(YAML)
    decorated = DETECTOR.format(cls="Plain", name="plain").replace("class", "@register_detector\nclass", 1)
    (package / "registering.py").write_text(decorated)
    (package / "raising.py").write_text("raise SystemExit('no such\\nlibrary')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others-ood\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process that has the package installed."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(list(arguments))
    return (code, *capsys.readouterr())


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]


# -------------------------------------------------------------------- entry points


def test_detectors_of_an_installed_package_are_scored_by_their_names(site: Path, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    done = python(site, "-m", "nci_plugin", *tiny.eval("theirs", "plain", "msp"))
    assert done.returncode == 0, done.stderr
    assert {row["detector"] for row in rows(tiny.output)} == {"theirs", "plain", "msp"}
    chosen = {row["detector"]: (row["hyperparameters"], row["chosen_by"]) for row in rows(tiny.output)}
    assert chosen["theirs"][1].startswith("search of 2 values of alpha")
    assert chosen["plain"] == ({"alpha": 0.1}, "fixed")
    warned = [line for line in done.stderr.splitlines() if "entry point" in line]
    assert len(warned) == 3
    for name, reason in (("broken", "SystemExit: no such library"), ("no_class", "inherits"), ("taken", "is taken")):
        assert any(line.startswith(f"detector '{name}': ") and reason in line for line in warned), name


def test_one_that_cannot_be_loaded_says_why(site: Path, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    done = python(site, "-m", "nci_plugin", *tiny.eval("broken"))
    assert done.returncode == 2
    assert "detector 'broken': its entry point 'others_ood.raising:Nothing' cannot be loaded" in done.stderr
    assert not tiny.output.exists()


def test_all_holds_them_and_an_installation_writes_their_files(site: Path) -> None:
    code = (
        "from nci_plugin.api import resolve_detectors; from nci_plugin.installation import _contents\n"
        "print([setup.name for setup in resolve_detectors('all')][-25:])\n"
        "for name in ('theirs', 'plain'): print(_contents()[f'configs/postprocessors/{name}.yml'].decode())"
    )
    done = python(site, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "'theirs'" in done.stdout
    assert YAML in done.stdout
    assert "postprocessor:\n  name: plain\n  APS_mode: False\n" in done.stdout


# -------------------------------------------------------------------- in this process


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten afterwards."""
    registry.names()
    monkeypatch.setattr(registry, "_DETECTORS", dict(registry._DETECTORS))


def made(name: str = "mine", qualname: str = "Mine", module: str = __name__) -> type[Detector]:
    scope: dict[str, Any] = {"__name__": module}
    exec(DETECTOR.format(cls=qualname, name=name), scope)
    return scope[qualname]


@pytest.mark.usefixtures("registered")
def test_a_registered_class_is_known_by_its_name_and_needs_no_file() -> None:
    cls = register_detector(made())
    assert load_detector("mine") == DetectorSetup(cls())
    assert "mine" in [setup.name for setup in resolve_detectors("all")]
    assert _contents()["configs/postprocessors/mine.yml"] == b"postprocessor:\n  name: mine\n  APS_mode: False\n"
    again = register_detector(made())  # as a cell of a notebook that runs again
    assert type(load_detector("mine").detector) is again


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (made("nci"), "the name 'nci' of .* is taken by nci_plugin.detectors.nci.NCI"),
        (made("all"), "and not 'all' or 'recommended', got 'all'"),
        (made("recommended"), "got 'recommended'"),
        (made("a/b"), "must be letters, digits"),
        (made("mine.yml"), "got 'mine.yml'"),
        (Detector, "got None"),
        (int, "inherits from nci_plugin.Detector"),
    ],
)
def test_what_cannot_be_registered(cls: Any, message: str) -> None:
    known = registry.names()
    with pytest.raises(PluginError, match=message):
        register_detector(cls)
    assert registry.names() == known


class Unnamed(NCI):
    """A class that has the name of the one it inherits from."""


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "detector",
    [made("nci"), made("nci")(), Unnamed, DetectorSetup(Unnamed()), DetectorSetup(registry.create("msp"), name="nci")],
)
def test_no_other_class_takes_the_name_of_a_registered_detector(detector: Any) -> None:
    """Its rows would take the place of that detector's in a results directory."""
    with pytest.raises(PluginError, match="the name 'nci' of .* is taken by nci_plugin.detectors.nci.NCI; give it an"):
        resolve_detectors(detector)
    register_detector(made("theirs", module="theirs"))
    with pytest.raises(PluginError, match="the name 'theirs' of .* is taken by theirs.Mine"):
        resolve_detectors(made("theirs"))


class NeedsArgument(made()):  # type: ignore[misc]
    """A class without defaults."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha


class NoName(Detector):
    """A class that sets no name."""

    def _score(self, features: Any, logits: Any) -> Any:
        return logits[:, 0]


class FitsOnAText(made()):  # type: ignore[misc]
    """A class that says what it fits on in a text."""

    fits_on = "bank"


@pytest.mark.parametrize("gate", [check_detector, new_detector, DetectorSetup])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "must be a .*Detector, got (3|int)"),
        (int, "detector 'int': must be a class that inherits nci_plugin.Detector, got <class 'int'>"),
        (NeedsArgument, r"detector 'NeedsArgument': cannot be made without arguments \(.*'alpha'\); give defaults"),
        (NoName, "detector 'NoName': has no name; give its class one"),
        (FitsOnAText, "detector 'FitsOnAText': fits_on must be a value of nci_plugin.FitsOn, got 'bank'"),
        (NoName(), "detector 'NoName': has no name; give its class one"),
    ],
)
def test_what_is_no_detector(gate: Callable[[Any], Any], given: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        gate(given)


def test_check_detector_takes_no_name() -> None:
    with pytest.raises(PluginError, match="must be a class that inherits nci_plugin.Detector, got 'nci'"):
        check_detector("nci")  # type: ignore[arg-type]


def test_two_classes_of_one_name_are_told_apart() -> None:
    with pytest.raises(PluginError, match="'mine': given twice, with different hyper-parameters or of two classes"):
        resolve_detectors([made(), made(qualname="Other")])


def test_every_registered_detector_has_a_file_for_openood() -> None:
    """A shipped one stays where it is; the others' are made where OpenOOD looks. tests/openood has them constructed."""
    contents = _contents()
    for name in registry.names():
        assert file_of(name) or name in unshipped_files()
        assert name in METHODS or f"configs/postprocessors/{name}.yml" in contents


def test_the_earlier_name_of_register_with_openood_warns() -> None:
    with warnings.catch_warnings(record=True) as warned, contextlib.suppress(PluginError):  # without OpenOOD
        warnings.simplefilter("always")
        nci_plugin.register(override=False)
    assert [str(each.message) for each in warned if each.category is DeprecationWarning] == [
        "nci_plugin.register is now register_with_openood"
    ]


def test_public_names() -> None:
    for name in ("register_detector", "register_with_openood", "DetectorSetup", "FitsOn", "Paper"):
        assert name in nci_plugin.__all__
    assert (FitsOn.BANK.value, Paper("t", "a", "v", 2026, "").year) == ("bank", 2026)


# -------------------------------------------------------------------- FILE.py:CLASS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(f"{DETECTOR.format(cls='Mine', name='mine')}\nNUMBER = 3\n\ndef number():\n    return 3\n")
    return path


def test_a_class_of_a_file_is_scored(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = Tiny(tmp_path / "tiny")
    code, out, err = command(*tiny.eval(f"{file}:Mine", "msp", f"{file}:Mine"), capsys=capsys)
    assert code == 0, err
    assert {row["detector"] for row in rows(tiny.output)} == {"mine", "msp"}
    assert "mine" in out
    assert "mine" not in registry.names()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mime", r"has no class 'Mime' \(did you mean 'Mine'\?\)"),
        ("NUMBER", "has no class 'NUMBER'"),
        ("number", "must be a class that inherits nci_plugin.Detector"),
        ("Detector", "cannot be made without arguments"),
        ("", "expected FILE.py:CLASS or package.module:CLASS"),
    ],
)
def test_what_is_no_class_of_a_file(file: Path, name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        resolve_detectors(f"{file}:{name}")


def test_what_writes_files_takes_no_class_of_a_file(file: Path) -> None:
    for take in (new_detector, load_detector):
        with pytest.raises(PluginError, match=r"unknown detector .*Mine': must be a registered name .* an entry point"):
            take(f"{file}:Mine")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(PluginError, match=r"detector 'no.py:Mine': there is no file 'no.py'; expected FILE.py:CLASS"):
        resolve_detectors("no.py:Mine")
    with pytest.raises(PluginError, match="cannot import 'no_such_module'"):
        resolve_detectors("no_such_module:Mine")
    with pytest.raises(PluginError, match="unknown detector 'pytorch_ood:non'"):
        resolve_detectors("pytorch_ood:non")


@pytest.mark.parametrize("key", ["name", "detector"])
def test_data_names_no_code(tmp_path: Path, key: str) -> None:
    """A YAML file that names a file of Python's: it is refused, and the file does not run."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = {"name": "x", key: f"{tmp_path / 'evil.py'}:Mine"}
    (tmp_path / "evil.yml").write_text(json.dumps({"postprocessor": config}))
    for load in (resolve_detectors, load_detector):
        with pytest.raises(PluginError, match="unknown detector"):
            load(str(tmp_path / "evil.yml"))
    with pytest.raises(PluginError, match="unknown detector"):
        load_detector(f"{tmp_path / 'evil.py'}:Mine")
    assert not (tmp_path / "ran").exists()


# -------------------------------------------------------------------- two settings of one detector


def test_two_settings_share_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = Tiny(tmp_path / "tiny")
    fixed = tmp_path / "nci_fixed.yml"
    fixed.write_text("postprocessor: {name: nci_fixed, detector: nci, postprocessor_args: {alpha: 0.5}}\n")
    code, _, err = command(*tiny.eval("nci", str(fixed), "nci"), capsys=capsys)
    assert code == 0, err
    chosen = {row["detector"]: row["hyperparameters"] for row in rows(tiny.output)}
    assert list(chosen) == ["nci", "nci_fixed"]
    assert chosen["nci_fixed"] == {"alpha": 0.5}
    assert chosen["nci"] != chosen["nci_fixed"]
    for name in ("nci", "nci_fixed"):
        assert (tiny.output / "ood" / f"{name}.csv").is_file()
    ours, theirs = (np.load(tiny.output / "scores" / f"{name}.npz")["id/test"] for name in ("nci", "nci_fixed"))
    assert not np.array_equal(ours, theirs)


def test_two_settings_in_python() -> None:
    detector = registry.create("nci", alpha=0.5)
    fixed = DetectorSetup(detector, name="nci_fixed")
    setups = resolve_detectors(["nci", fixed, DetectorSetup(registry.create("nci", alpha=0.5), {}, "nci_fixed")])
    assert [(setup.name, dict(setup.configured)) for setup in setups] == [
        ("nci", {"alpha": 1e-4}),
        ("nci_fixed", {"alpha": 0.5}),
    ]
    with pytest.raises(PluginError, match=r"'nci': given twice, .*; give one of them a name of its own: .* YAML"):
        resolve_detectors(["nci", detector])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{name: msp, detector: nci}", "the name 'msp' of .*NCI is taken by .*MSP; give it another"),
        ("{name: mine, detector: nco}", "unknown detector 'nco'"),
        ("{name: a/b, detector: nci}", "name"),
        ("{name: '=1', detector: nci}", "must not begin with ="),
        ("{detector: nci}", "key 'name' is missing"),
    ],
)
def test_names_that_a_setting_cannot_have(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "x.yml").write_text(f"postprocessor: {config}\n")
    with pytest.raises(PluginError, match=message):
        load_detector(str(tmp_path / "x.yml"))
