"""What is going to be stored is said and checked before the pass, and damage in it is found wherever it is."""

from __future__ import annotations

import random
import re

import pytest
from children import Whole
from tiny import COUNTS, stored

from nci_plugin import extraction
from nci_plugin.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")
ROW = 4 * (16 + 3) + 8
"""Bytes of 16 features and 3 logits in float32 and a label."""


def test_bytes_of_each_split_are_said(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    keeps_training = len(whole.detectors) == 3
    counts = {name: count for name, count in COUNTS.items() if name != "train" or keeps_training}
    assert main(whole.arguments("out")) == 0
    line = re.search(r"features to store: ([\d.]+) kB \((.*)\); .* are free", capsys.readouterr().out)
    assert line is not None
    assert float(line[1]) == round(sum(counts.values()) * ROW / 1000, 1)
    assert f"id/test {COUNTS['test'] * ROW} bytes" in line[2]
    assert len(line[2].split(", ")) == len(counts)
    assert main(whole.arguments("out")) == 0
    assert "features to store" not in capsys.readouterr().out


def test_too_little_space_is_refused_before_the_pass(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extraction, "free_bytes", lambda path: 2000)
    assert main(whole.arguments("out")) == 2
    assert re.fullmatch(
        r"nci-ood: error: output '.*': [\d.]+ kB of features are to be stored and 2.0 kB are free; free space, .*\n",
        capsys.readouterr().err,
    )
    assert not (whole.tiny.root / "out").exists()
    assert sum(whole.tiny.passes()) <= 3 * 4, "nothing but the first batch passed"


def test_any_flipped_byte_of_any_stored_file(whole: Whole) -> None:
    """Random bytes of all files of the bank at once; the same run makes them again, and only them."""
    output, generator, flipped = whole.tiny.root / "whole", random.Random(0), 0
    before = stored(output)
    for _ in range(10):
        victims = generator.sample(sorted(before), 5)
        for name in victims:
            data = bytearray(before[name])
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            (output / name).write_bytes(data)
        flipped += len(victims)
        assert main(whole.arguments("whole")) == 0
        assert stored(output) == before
    print(f"{flipped} flipped bytes found and made again")


def test_any_truncated_file(whole: Whole) -> None:
    output, generator = whole.tiny.root / "whole", random.Random(1)
    before = stored(output)
    for name, data in before.items():
        (output / name).write_bytes(data[: generator.randrange(len(data))])
    assert main(whole.arguments("whole")) == 0
    assert stored(output) == before


def test_features_of_another_network_in_the_bank(whole: Whole) -> None:
    """Its files are whole, of the same shapes and numbers, and lie in the place of this network's."""
    tiny = whole.tiny
    before = stored(tiny.root / "whole")
    tiny.save_checkpoint(tiny.root / "other.ckpt", seed=5)
    other = tiny.eval(*whole.detectors, ckpt_path=tiny.root / "other.ckpt", output=tiny.root / "other")
    assert main(other) == 0
    (mine,), (theirs,) = ((tiny.root / name / "features").iterdir() for name in ("whole", "other"))
    for path in [path for path in mine.rglob("*.safetensors")]:
        path.unlink()
    for path in theirs.rglob("*.safetensors"):
        (mine / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert main(whole.arguments("whole")) == 0
    after = stored(tiny.root / "whole")
    assert {name: after[name] for name in before} == before
