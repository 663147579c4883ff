"""Detectors of someone else as postprocessors of OpenOOD, with a YAML file each, whatever wrote it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from openood.evaluation_api import evaluator as evaluator_module
from openood.pipelines import test_ood_pipeline as pipeline_module
from openood.utils.config import Config

import nci_plugin
from nci_plugin.adapters.openood import registries, scripts
from nci_plugin.adapters.openood.postprocessor import DetectorPostprocessor
from nci_plugin.config import config_directory
from nci_plugin.detectors import registry

SOURCE = '''
from nci_plugin import Detector, Paper, register_detector

class Largest(Detector):
    """Score = beta max_k z_k (an example, 2026)."""

    paper = Paper("An example", "Author", "Venue", 2026, "https://example.org")

    def __init__(self, beta=1.0):
        self.beta = beta

    def _score(self, features, logits):
        return self.beta * logits.amax(dim=1)

@register_detector
class Plain(Largest):
    """Score = beta max_k z_k (an example, 2026)."""
    name = "others_plain"

@register_detector
class Searched(Largest):
    """Score = beta max_k z_k (an example, 2026)."""
    name = "others_searched"
'''
YAML = "postprocessor: {name: others_searched, APS_mode: True, postprocessor_sweep: {beta_list: [1, 2]}}\n"


@pytest.fixture(scope="module", autouse=True)
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("others")
    (directory / "others_detectors.py").write_text(SOURCE)
    (directory / "others_searched.yml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_DETECTORS", {name: registry.detector_class(name) for name in registry.names()})
        patch.setattr(registries.evaluation_api, "postprocessors", dict(registries.evaluation_api.postprocessors))
        patch.syspath_prepend(directory)
        importlib.import_module("others_detectors")
        nci_plugin.register_with_openood()
        yield
        nci_plugin.register_with_openood(override=False)


def test_every_registered_detector_has_a_file_that_a_path_names(capsys: pytest.CaptureFixture[str]) -> None:
    """As main.py is given them; a file that is not there is that of the plugin."""
    for name in registry.names():
        shipped = config_directory() / "postprocessors"
        arguments = [f"configs/postprocessors/{name}.yml"]
        for directory in (shipped, registries.GENERATED):
            arguments = scripts.with_shipped_configs(arguments, directory)
        assert Path(arguments[0]).is_file(), name
        whole = Config(arguments[0])
        assert whole.postprocessor.name == name
        if name not in registries.OPENOODS_NAMES:
            made = pipeline_module.get_postprocessor(Config(whole, {"dataset": {"name": "x", "num_classes": 10}}))
            assert isinstance(made, DetectorPostprocessor)
            assert made.detector.name == name


def test_they_are_found_by_their_names(tmp_path: Path) -> None:
    plain = evaluator_module.get_postprocessor(str(tmp_path), "others_plain", "cifar10")
    assert (plain.APS_mode, plain.args_dict, plain.detector.beta) == (False, {}, 1.0)
    searched = evaluator_module.get_postprocessor(str(tmp_path), "others_searched", "cifar10")
    assert (searched.APS_mode, searched.args_dict) == (True, {"beta_list": [1, 2]})
    own = tmp_path / "postprocessors" / "others_plain.yml"
    own.parent.mkdir()
    own.write_text("postprocessor: {name: others_plain, postprocessor_args: {beta: 3}}\n")
    assert evaluator_module.get_postprocessor(str(tmp_path), "others_plain", "cifar10").detector.beta == 3


def test_the_earlier_name_does_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(DeprecationWarning, match="register_with_openood"):
        nci_plugin.register()
    assert registries.evaluation_api.postprocessors["nci"] is DetectorPostprocessor
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nci_plugin.register_with_openood(override=False)
    assert registries.evaluation_api.postprocessors["nci"] is not DetectorPostprocessor
    nci_plugin.register_with_openood()
    assert capsys.readouterr() == ("", "")
