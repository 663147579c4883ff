"""The pages about a service: their Python runs as it stands, and the FastAPI example answers as the detector does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import served
import torch
from PIL import Image
from served import NAMES, STEPS, folders, rows

from nci_plugin import OODDetector

HOWTO = Path(__file__).resolve().parent.parent / "docs" / "howto"
BLOCK = re.compile(r"^```\{code-block\} python\n(?::name: (\w+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: str) -> dict[str, str]:
    found = BLOCK.findall((HOWTO / page).read_text(encoding="utf-8"))
    return {name or f"{number}": code for number, (name, code) in enumerate(found)}


def test_the_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = rows(40, 3).tensors[0]
    names: dict[str, Any] = {
        "torch": torch,
        "model": served.network(),
        "preprocessing": STEPS,
        "train_loader": torch.utils.data.DataLoader(rows(120, 1), 20, shuffle=True),
        "val_loader": torch.utils.data.DataLoader(rows(60, 2), 20),
        "images": images,
        "image": images[0],
        "train": rows(120, 1),
        "val": rows(60, 2),
        "test": rows(40, 3),
        "ood": rows(30, 4, ood=True),
    }
    codes = [item for page in ("service.md", "drift.md", "diagnose.md") for item in snippets(page).items()]
    assert len(codes) == 5
    for name, code in codes:
        if name != "service":
            names["scores"] = names["detector"].score(images) if "detector" in names else None
            exec(compile(code, name, "exec"), names)
    assert isinstance(names["detector"], OODDetector)
    assert (tmp_path / "drift.png").stat().st_size > 1000
    assert names["is_ood"].shape == (40,)


def test_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("multipart")
    client_of = pytest.importorskip("fastapi.testclient").TestClient
    code = snippets("service.md")["service"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 32
    folders(tmp_path, {"train": 120, "val": 60, "mixed": 8})
    model = served.network()
    detector = OODDetector(preprocessing=STEPS, progress=False).fit(model, tmp_path / "train", tmp_path / "val")
    detector.save(tmp_path / "detector.safetensors")
    (tmp_path / "service.py").write_text(code, encoding="utf-8")
    (tmp_path / "net.py").write_text("import served\n\ndef load_model():\n    return served.network()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "net", raising=False)
    spec = importlib.util.spec_from_file_location("service", tmp_path / "service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "service", module)
    spec.loader.exec_module(module)
    client = client_of(module.app)
    for path in sorted((tmp_path / "mixed").iterdir()):
        answer = client.post("/predict", files={"file": path.read_bytes()})
        assert answer.status_code == 200, answer.text
        found, expected = answer.json(), detector.predict(path)
        assert found["class"] == expected.classes[0] in NAMES
        assert found["score"] == pytest.approx(float(expected.scores[0]), rel=1e-4, abs=1e-4)
        assert found["is_ood"] == bool(expected.is_ood[0])
        assert found["p_value"] == pytest.approx(float(expected.p_values[0]), abs=0.02)
    Image.new("F", (8, 8)).save(tmp_path / "float.tiff")  # of which nobody says what is white
    for data in (b"no image", (tmp_path / "float.tiff").read_bytes(), path.read_bytes()[:60]):
        assert client.post("/predict", files={"file": data}).status_code == 422
    monkeypatch.delitem(sys.modules, "net", raising=False)
