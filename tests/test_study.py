"""The study of NCI without OOD images, on a network that it trains itself."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

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
