"""What is going to be stored is said and checked before the pass, and damage in it is found wherever it is."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Whole
from tiny import COUNTS, stored, tree

from nci_plugin.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")
only_bank = pytest.mark.parametrize("whole", ["bank"], indirect=True)

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
    monkeypatch.setattr("nci_plugin.features.extract.free_bytes", lambda path: 2000)
    assert main(whole.arguments("out")) == 2
    assert re.fullmatch(
        r"nci-ood: error: output '.*': [\d.]+ kB of features are to be stored and 2.0 kB are free; free space, .*\n",
        capsys.readouterr().err,
    )
    assert not (whole.tiny.root / "out").exists()
    assert sum(whole.tiny.passes()) <= 3 * 4, "nothing but the first batch passed"


def test_any_flipped_byte_of_any_stored_file(whole: Whole, record_property: Callable[[str, Any], None]) -> None:
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
    record_property("count", f"{flipped} flipped bytes found and made again")


def regions(data: bytes) -> dict[str, range]:
    """What the bytes of a stored file are: a header's length, the header, and each tensor."""
    body = 8 + int.from_bytes(data[:8], "little")
    tensors = {name: each["data_offsets"] for name, each in json.loads(data[8:body]).items() if name != "__metadata__"}
    places = {name: range(body + first, body + last) for name, (first, last) in tensors.items() if first < last}
    return {"header's length": range(8), "header": range(8, body), **places}


DAMAGE: list[Callable[[bytes, range], bytes]] = [
    lambda data, place: data[: place.start] + bytes([data[place.start] ^ 1]) + data[place.start + 1 :],
    lambda data, place: data[: place.stop - 1] + bytes([data[place.stop - 1] ^ 0x80]) + data[place.stop :],
    lambda data, place: (
        data[: place.start] + bytes(255 - byte for byte in data[place.start : place.stop]) + data[place.stop :]
    ),
    lambda data, place: data[: place.start] + data[place.stop :],
    lambda data, place: data[: place.stop - 1],
]
"""Its first bit, its last bit, every bit, taken out, cut off at its end."""


@only_bank
def test_each_region_of_each_stored_file(whole: Whole, record_property: Callable[[str, Any], None]) -> None:
    """One region of every file at a time, each file with another damage; made again to the same bytes."""
    output, damaged = whole.tiny.root / "whole", 0
    before, scores = stored(output), tree(output / "scores")
    places = {name: regions(data) for name, data in before.items() if name.endswith(".safetensors")}
    for turn, region in enumerate(dict.fromkeys(region for each in places.values() for region in each)):
        for number, (name, each) in enumerate(places.items()):
            if region in each:
                (output / name).write_bytes(DAMAGE[(turn + number) % len(DAMAGE)](before[name], each[region]))
                damaged += 1
        assert main(whole.arguments("whole")) == 0
        assert stored(output) == before
        assert tree(output / "scores") == scores
    record_property("count", f"{damaged} files damaged in a region each, found and made again")


def appended(files: dict[Path, bytes]) -> None:
    for path, data in files.items():
        path.write_bytes(data + b"\0")


def swapped(files: dict[Path, bytes]) -> None:
    """The content of another file of the same split."""
    for path, data in zip(files, [*list(files.values())[1:], next(iter(files.values()))]):
        path.write_bytes(data)


def renumbered(files: dict[Path, bytes]) -> None:
    """Whole files in each other's place: rows would be in another order, under other images' labels."""
    for path in files:
        path.unlink()
    for number, (path, data) in enumerate(reversed(files.items())):
        path.with_name(f"{number:05d}{path.name[5:]}").write_bytes(data)


def doubled(files: dict[Path, bytes]) -> None:
    """A second file of the same number, which is none of this class's."""
    for path, data in files.items():
        path.with_name(f"{path.name[:6]}{'0' * 32}.safetensors").write_bytes(data)


def of_another_split(files: dict[Path, bytes]) -> None:
    other = next(path for path in next(iter(files)).parents[1].glob("near.near-*/00000-*"))
    for path in files:
        path.write_bytes(b"")
        path.with_name(other.name).write_bytes(other.read_bytes())


@only_bank
@pytest.mark.parametrize("fault", [appended, swapped, renumbered, doubled, of_another_split])
def test_shards_that_are_not_in_their_place(whole: Whole, fault: Callable[[dict[Path, bytes]], None]) -> None:
    output = whole.tiny.root / "whole"
    before, scores = stored(output), tree(output / "scores")
    fault({output / name: data for name, data in before.items() if "/id.test-" in name and "split.json" not in name})
    assert stored(output) != before
    assert main(whole.arguments("whole")) == 0
    assert stored(output) == before
    assert tree(output / "scores") == scores


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
    (mine,), (theirs,) = (
        [path for path in (tiny.root / name / "features").iterdir() if path.name != "images"]
        for name in ("whole", "other")
    )
    for path in [path for path in mine.rglob("*.safetensors")]:
        path.unlink()
    for path in theirs.rglob("*.safetensors"):
        (mine / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert main(whole.arguments("whole")) == 0
    after = stored(tiny.root / "whole")
    assert {name: after[name] for name in before} == before
