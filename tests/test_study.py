"""The study of NCI without OOD images, on a network that it trains itself."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "study" / "nci_without_ood.py"


@pytest.mark.slow
def test_from_nothing(tmp_path: Path) -> None:
    page, table = tmp_path / "page.md", tmp_path / "numbers.csv"
    page.write_text("Prose.\n\n<!-- below: python scripts/study/nci_without_ood.py -->\nold\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), "--quick", "--page", str(page), "--csv", str(table)]
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Prose.\n")
    assert "old" not in text
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    auroc = {row["column"]: float(row["near"]) for row in rows if row["table"] == "AUROC near / far"}
    less = {row["column"]: float(row["near"]) for row in rows if row["table"].startswith("AUROC near / far, less")}
    assert less["nci_plus"] == pytest.approx(auroc["nci_plus"] - auroc["nci"], abs=2e-3)
    by_rule = {row["column"]: float(row["near"]) for row in rows if row["table"].startswith("NCI by the rule")}
    assert by_rule["midpoints"] == pytest.approx(auroc["nci_auto"], abs=2e-3)
    assert by_rule["OpenOOD's search"] == auroc["nci"]


# ---------------------------------------------------------------- families of networks


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("families")


def test_page_holds_what_its_tables_say(families: Any) -> None:
    text = (ROOT / "docs" / "nci_without_ood.md").read_text(encoding="utf-8")
    found = families.read_differences(text)
    assert {name: len(by_network) for name, by_network in found.items()} == {"nci_auto": 8, "nci_plus": 8}
    for detector, by_network in found.items():
        for name, (near, far) in families.report(by_network):
            assert f"| `{detector}`, {name.replace('cifar', 'CIFAR')} | {near} | {far} |" in text


def test_intervals_by_hand(families: Any) -> None:
    """Networks of a family are correlated by 0.5, which leaves s^2 (1 + 1/n) of their mean; families are not."""
    own = families.of_family([1.0, 2.0, 3.0])  # 4.3027: t of 2 degrees, 0.975
    assert (own.points, own.high - own.points) == (2.0, pytest.approx(4.3027 * np.sqrt(4 / 3), abs=1e-4))
    over = families.over_families([1.0, 3.0])
    assert over.high - over.points == pytest.approx(12.7062, abs=1e-4)  # t of 1 degree x sqrt(2) / sqrt(2)


@pytest.mark.parametrize("what", ["family", "families"])
def test_few_verdicts_without_any_effect(families: Any, what: str) -> None:
    """At most 19 of 200 differ, each of two families of four networks, half of whose variance is the family's."""
    generator, found = np.random.default_rng(5), 0
    for _ in range(200):
        values = generator.normal(size=(2, 1)) + generator.normal(size=(2, 4))
        made = families.of_family(values[0]) if what == "family" else families.over_families(values.mean(axis=1))
        found += made.differs
    assert 1 <= found <= 19
