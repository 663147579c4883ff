"""The documentation's generated pages and its script; ``scripts/docs.sh`` builds the whole, with what it needs."""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.collapse import BEYOND, METRICS
from nci_plugin.config import detector_names, parse_benchmark
from nci_plugin.detectors import registry
from nci_plugin.evaluation.configuration import parse_detector
from nci_plugin.metrics import METRIC_COLUMNS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def generated() -> Iterator[Any]:
    """The module docs/generated.py, as docs/conf.py imports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield importlib.import_module("generated")


def page(generated: Any, name: str) -> str:
    return "\n".join(generated.PAGES[name]())


def test_every_detector_is_on_its_page(generated: Any) -> None:
    text = page(generated, "detectors")
    for name in detector_names():
        assert f"`{name}`" in text
    for name in registry.names():
        assert f"\n## {name}\n" in text
        assert registry.detector_class(name).paper.venue in text


def test_every_collapse_metric_is_on_its_page(generated: Any) -> None:
    text = page(generated, "collapse_metrics")
    for field in (*METRICS, *BEYOND):
        assert f"| `{field}` |" in text
    assert "Papyan et al. 2020" in text


def test_every_option_of_every_command_is_on_its_page(generated: Any) -> None:
    def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield command
                    yield from commands(command)

    sections = re.split(r"\n#+ (?=nci-ood )", page(generated, "command_line"))
    texts = {section.splitlines()[0]: section for section in sections[1:]}
    found = list(commands(generated.make_parser()))
    assert set(texts) == {command.prog for command in found}
    assert {"nci-ood eval", "nci-ood leaderboard rank"} <= set(texts)
    for command in found:
        for action in command._actions:
            for option in action.option_strings:
                assert option == "-h" or option == "--help" or f"`{option}" in texts[command.prog]


def test_every_metric_is_on_its_page(generated: Any) -> None:
    """With its column, source and formula."""
    text = page(generated, "metrics")
    for name, metric in METRIC_COLUMNS.items():
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert generated.plain(metric.source) in section
        assert generated.plain(metric.function.__doc__.splitlines()[0]) in section
        assert generated.plain(metric.label) in text


def test_generated_pages_are_written_once(generated: Any, tmp_path: Path) -> None:
    generated.write(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(times) == {f"{name}.md" for name in generated.PAGES}
    generated.write(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_text_of_docstrings_is_no_markup(generated: Any) -> None:
    assert generated.plain("||h||_1 of `fit` and ``a|b``") == r"\|\|h\|\|\_1 of `fit` and `a|b`"


def test_yaml_examples_are_valid() -> None:
    text = (ROOT / "docs" / "reference" / "yaml.md").read_text(encoding="utf-8")
    benchmark, detector = (yaml.safe_load(block) for block in re.findall("```yaml\n(.*?)```", text, re.DOTALL))
    parsed = parse_benchmark(benchmark["benchmark"], "the example")
    assert set(parsed.splits) == {
        "id/train", "id/val", "id/test", "ood/val", "csid/blurred", "near/others", "far/photographs"
    }  # fmt: skip
    photographs = parsed.splits["far/photographs"]
    assert isinstance(photographs, ImageList)
    assert photographs.preprocessing.interpolation == "bicubic"
    assert parse_detector(detector["postprocessor"], "the example").sweep == {"alpha": [0.0001, 0.001, 0.01, 0.1]}


@pytest.mark.usefixtures("one_thread")
def test_the_tutorial_of_a_detector_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(registry, "_DETECTORS", {name: registry.detector_class(name) for name in registry.names()})
    text = (ROOT / "docs" / "tutorials" / "write_a_detector.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {"__name__": "tutorial"}
    for cell in re.findall(r"```\{code-cell\}\n(?::tags:[^\n]*\n)?(.*?)```", text, re.DOTALL):
        exec(cell, scope)
    printed = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in printed if "AUROC" in line]
    assert names == ["centred_logit", "nci", "mls", "msp", "centred_logit", "centred_logit_0.3", "centred_logit"]
    assert len(printed) == len(names), "no failures"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--wrong", 2)])
def test_script_says_how_it_is_used(argument: str, code: int) -> None:
    command = ["bash", str(ROOT / "scripts" / "docs.sh"), argument]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    if code:
        assert done.stderr.splitlines() == [f"error: scripts/docs.sh: takes no argument but --help, got '{argument}'."]
    else:
        assert done.stdout.startswith("usage: bash scripts/docs.sh\n")
