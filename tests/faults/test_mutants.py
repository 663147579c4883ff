"""Randomly damaged configs, lists and checkpoints: refused by one line, or the numbers of exactly what they say."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from reference import Reference
from tiny import Tiny, draw_nothing

from nci_plugin.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")

NCI = """
postprocessor:
  name: nci
  APS_mode: true
  postprocessor_args: {alpha: 0.5}
  postprocessor_sweep: {alpha_list: [0.001, 0.1]}
"""
WEIRD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 8, 1.5, 1e300, 10**9, 10**30, float("nan"), float("inf")),
    *("", " ", "x", "1e-4", "a\0b", "é", "../../x", "/etc/passwd", "~", "${HOME}", "-1", "x" * 300),
    *(
        [],
        {},
        [[]],
        [None],
        ["near"],
        {"datasets": []},
        {"x": {"x": 1}},
        [[0.5] * 3, [0.5] * 3],
        date(2024, 1, 1),
        b"\xff",
    ),
]
TEXTS = [
    *(
        b"",
        b" ",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\t",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"#",
        b":",
        b"-",
        b"-1",
        b"1",
        b"9" * 5000,
    ),
    *(
        b"../",
        b"/",
        b"../../tiny.ckpt 0\n",
        b"/etc/passwd 0\n",
        b"test 0\n",
        b"test/0.png 0\n",
        b"near/1.png -1\n",
        b"./",
    ),
    *(
        "\u2028é".encode(),
        b"&a [*a]",
        b"*a",
        b"!!python/name:os.system",
        b"[" * 3000,
        b"{",
        b"'",
        b'"',
        b"1e5",
        b"0x1",
        b"~",
    ),
]


class Mill:
    """A tiny benchmark of which one file after another is replaced, run and put back."""

    def __init__(self, root: Path) -> None:
        self.tiny = Tiny(root)
        self.detector = root / "nci.yml"
        self.detector.write_text(NCI)
        self.outcomes: Counter[str] = Counter()

    def run(self, path: Path, content: bytes, then: Callable[[Path], None]) -> None:
        """Run with ``path`` holding ``content``; where results come out, ``then`` looks at their directory."""
        tiny, whole = self.tiny, path.read_bytes()
        path.write_bytes(content)
        before, out, error = self._traces(), io.StringIO(), io.StringIO()
        arguments = tiny.eval("msp", str(self.detector), ckpt_path=path if path.stem == "mutant" else tiny.checkpoint)
        try:
            with redirect_stdout(out), redirect_stderr(error), warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                code = main(arguments)
            assert self._traces() == before, "something was written outside the output directory"
            assert not warned, [str(warning.message) for warning in warned]
            if code == 2:
                assert re.fullmatch(r"nci-ood: error: [^\n]+\n", error.getvalue()), error.getvalue()
                assert not [*tiny.output.rglob("*.csv"), *tiny.output.rglob("*.jsonl")]
                self.outcomes["refused"] += 1
            else:
                assert error.getvalue() == ""
                assert code == (1 if "\nnot scored: " in out.getvalue() else 0)
                then(tiny.output)
                self.outcomes["the right numbers"] += 1
        finally:
            path.write_bytes(whole)
            shutil.rmtree(tiny.output, ignore_errors=True)

    def _traces(self) -> dict[Path, tuple[int, int]]:
        """Size and time of everything but the output and the tiny network's own notes."""
        output = self.tiny.output
        return {
            path: (status.st_size, status.st_mtime_ns)
            for path in self.tiny.root.parents[1].rglob("*")
            if output not in (path, *path.parents)
            and path.is_file()
            and path.name != "passes"
            and "__pycache__" not in path.parts
            for status in [path.lstat()]
        }

    def assert_tables(self, output: Path, network: torch.nn.Module | None = None) -> None:
        Reference(self.tiny.yaml, self.tiny.data, network or self.tiny.loaded()).assert_tables(output)


@pytest.fixture(scope="module")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
        patch.setattr(os, "fsync", lambda descriptor: None)  # the wait for the disk is not the subject
        root = tmp_path_factory.mktemp("mutants") / "a" / "b"
        root.mkdir(parents=True)
        patch.chdir(root)
        yield Mill(root)


def try_mutants(
    mill: Mill, count: int, mutants: SearchStrategy[Any], run: Callable[[Any], None], record: Callable[[str, Any], None]
) -> None:
    """Run ``count`` different mutants, always the same ones; the first that fails is made as small as can be."""
    mill.outcomes.clear()
    limits = settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    limits(given(mutants)(run))()
    outcomes = ", ".join(f"{number} {what}" for what, number in mill.outcomes.items())
    record("count", f"{sum(mill.outcomes.values())} mutants tried: {outcomes}")


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a tree of mappings and lists, as its container and its key."""
    if isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


@st.composite
def mutated_trees(draw: DrawFn, original: Any) -> bytes:
    """YAML of which one to three keys or values were taken out, renamed, replaced, wrapped or moved."""
    tree = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(places(tree))
        if not spots:
            break
        (container, key), (other, name) = (spots[draw(st.integers(0, len(spots) - 1))] for _ in range(2))
        value, elsewhere = copy.deepcopy(container[key]), copy.deepcopy(other[name])
        act = draw(st.sampled_from(["replace", "replace", "move", "wrap", "delete", "rename", "add"]))
        if act == "replace":
            container[key] = copy.deepcopy(draw(st.sampled_from(WEIRD)))
        elif act == "move":
            container[key] = elsewhere
        elif act == "wrap":
            container[key] = draw(st.sampled_from([[value], {"name": value}]))
        elif act == "delete" or isinstance(container, list):
            del container[key]
        else:
            new = draw(st.sampled_from([f"{key}s", str(name), 1, None, "datasets", "../x", "a\0b"]))
            container[new] = value
            if act == "rename" and new != key:
                del container[key]
    return yaml.safe_dump(tree, allow_unicode=True).encode()


@st.composite
def mutated_bytes(draw: DrawFn, original: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """Bytes of which one to three places were overwritten, cut, doubled or had others put in."""
    data = original
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 1, 8, 64, 10**6])))
        put = draw(
            st.one_of(
                st.binary(max_size=8), st.just(data[start:stop] * 2), *([st.sampled_from(tokens)] if tokens else [])
            )
        )
        data = data[:start] + put + data[stop:]
    return data


@st.composite
def mutated_lines(draw: DrawFn, original: str, others: Sequence[str]) -> bytes:
    """A list of which one to three lines were taken out, doubled, swapped, changed or brought from another list."""
    lines = original.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, max(len(lines) - 1, 0)))
        line = lines[index] if lines else ""
        name, _, label = line.rpartition(" ")
        new = draw(
            st.sampled_from(
                [
                    *(
                        [],
                        [line, line],
                        [""],
                        [f" {line}\t"],
                        [name],
                        [label],
                        [line.replace(" ", "  ")],
                        [line.upper()],
                    ),
                    *(
                        [f"{name} {value}"]
                        for value in (-1, 0, 1, 2, 3, -2, "+1", "01", "1.0", "１", 10**17, 10**19, "")
                    ),
                    *(
                        [f"{place} 0"]
                        for place in ("../../tiny.ckpt", "/etc/passwd", ".", "..", "test", "a\0b", "x" * 300)
                    ),
                    *([f"{place}{line}"] for place in ("./", "../", "/", "near/../", "\ufeff", "~/", "file://")),
                    *([other] for other in others),
                ]
            )
        )
        lines[index : index + 1] = new
    return draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])).join([*lines, ""]).encode()


COUNTS = pytest.mark.parametrize("count", [10, pytest.param(60, marks=pytest.mark.slow)])
"""Eleven tests of so many mutants each."""


@COUNTS
def test_benchmark_config(mill: Mill, count: int, record_property: Callable[[str, Any], None]) -> None:
    path = mill.tiny.yaml
    mutants = st.one_of(mutated_trees(mill.tiny.config), mutated_bytes(path.read_bytes(), TEXTS))
    try_mutants(mill, count, mutants, lambda content: mill.run(path, content, mill.assert_tables), record_property)


@COUNTS
def test_postprocessor_config(mill: Mill, count: int, record_property: Callable[[str, Any], None]) -> None:
    path = mill.detector

    def then(output: Path) -> None:
        """The detector and a value that the file names."""
        raw = yaml.safe_load(path.read_text())["postprocessor"]
        rows = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
        for row in [row for row in rows if row["detector"] != "msp" or raw["name"] == "msp"]:
            assert row["detector"] == raw["name"]
            swept = (raw.get("postprocessor_sweep") or {}) if raw.get("APS_mode", False) else {}
            stated = {name: [value] for name, value in (raw.get("postprocessor_args") or {}).items()}
            allowed = {**stated, **{name[: -len("_list")]: values for name, values in swept.items()}}
            assert all(row["hyperparameters"][name] in values for name, values in allowed.items())
        mill.assert_tables(output)

    mutants = st.one_of(mutated_trees(yaml.safe_load(NCI)), mutated_bytes(NCI.encode(), TEXTS))
    try_mutants(mill, count, mutants, lambda content: mill.run(path, content, then), record_property)


@COUNTS
@pytest.mark.parametrize("split", ["train", "test", "oodval", "near"])
def test_image_list(mill: Mill, split: str, count: int, record_property: Callable[[str, Any], None]) -> None:
    path = mill.tiny.list(split)
    others = [mill.tiny.list(name).read_text().splitlines()[3] for name in ("train", "val", "far")]
    mutants = st.one_of(
        mutated_lines(path.read_text(), others),
        mutated_lines(path.read_text(), others),
        mutated_bytes(path.read_bytes(), TEXTS),
    )
    try_mutants(mill, count, mutants, lambda content: mill.run(path, content, mill.assert_tables), record_property)


# -------------------------------------------------------------------- checkpoints


@st.composite
def mutated_archives(draw: DrawFn, original: bytes) -> bytes:
    """A whole zip checkpoint of which members were taken out, renamed, replaced, doubled, packed or put in."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(members) - 1))
        name, data = members[index]
        member = draw(
            st.sampled_from(["../../escaped", "/escaped", "../b/escaped", name, f"{name}/../../escaped", "x/data/0"])
        )
        new = draw(
            st.sampled_from(
                [
                    *([], [(member, data)], [(name, data), (member, data)], [(name, data[:-1])], [(name, data * 2)]),
                    *([(name, b"")], [(name, members[0][1])], [(name, data[::-1])]),
                ]
            )
        )
        members[index : index + 1] = new
    packed = io.BytesIO()
    kind = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", kind) as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in members:
            archive.writestr(name, data)
    return packed.getvalue()


@st.composite
def mutated_weights(draw: DrawFn, original: dict[str, torch.Tensor]) -> bytes:
    """A checkpoint, whole as a file, of another content."""
    weights: dict[Any, Any] = dict(original)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(list(original)))
        weight = original[name]
        weights[draw(st.sampled_from([name, name, f"{name}2", 7, None, ("a",), ""]))] = draw(
            st.sampled_from(
                [
                    *(
                        weight.double(),
                        weight.half(),
                        weight.bfloat16(),
                        weight.int(),
                        weight.bool(),
                        weight.to(torch.complex64),
                    ),
                    *(
                        weight.T,
                        weight[None],
                        weight.flatten(),
                        weight[:0],
                        weight.to_sparse(),
                        weight * float("nan"),
                        weight * 1e30,
                    ),
                    *(
                        weight.expand(2, *weight.shape),
                        torch.zeros(()),
                        torch.zeros(weight.shape, device="meta"),
                        weight.numpy().tolist(),
                    ),
                    *(
                        None,
                        3,
                        "x",
                        {"x": weight},
                        torch.nn.Parameter(weight),
                        torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
                    ),
                ]
            )
        )
        for old in draw(st.sampled_from([(), (), (name,)])):
            weights.pop(old, None)
    content = draw(
        st.sampled_from(
            [
                *(weights, weights, {"state_dict": weights, "epoch": 3}, {"model": {"net": weights}}),
                *(
                    {f"module.{name}": weight for name, weight in weights.items()},
                    {"state_dict": None, **weights},
                    [weights],
                ),
            ]
        )
    )
    packed = io.BytesIO()
    torch.save(content, packed, _use_new_zipfile_serialization=draw(st.booleans()))
    return packed.getvalue()


def from_safetensors(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors in a file, as its format is described."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return {
        name: torch.frombuffer(bytearray(body[slice(*each["data_offsets"])]), dtype=dtypes[each["dtype"]]).view(
            each["shape"]
        )
        for name, each in header.items()
        if name != "__metadata__"
    }


@COUNTS
@pytest.mark.parametrize(
    "kind", ["bytes of a zip", "members of a zip", "weights", "bytes of before torch 1.6", "safetensors"]
)
def test_checkpoint(mill: Mill, kind: str, count: int, record_property: Callable[[str, Any], None]) -> None:
    """Where a file is loaded, the numbers are those of its tensors; a zip with any byte changed holds what it held."""
    weights = mill.tiny.loaded().state_dict()
    path = mill.tiny.root / ("mutant.safetensors" if kind == "safetensors" else "mutant.ckpt")
    whole, old = mill.tiny.checkpoint.read_bytes(), io.BytesIO()
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    mutants = {
        "bytes of a zip": mutated_bytes(whole),
        "members of a zip": mutated_archives(whole),
        "weights": mutated_weights(weights),
        "bytes of before torch 1.6": mutated_bytes(old.getvalue()),
        "safetensors": mutated_bytes(
            safetensors.torch.save(weights), [b'"F16"', b'"shape":[2]', b"e", b"0", b"\0" * 8]
        ),
    }[kind]

    def then(output: Path) -> None:
        data = path.read_bytes()
        tensors = (
            weights
            if kind == "bytes of a zip"
            else from_safetensors(data)
            if kind == "safetensors"
            else torch.load(path, weights_only=True)
        )
        for key in ("state_dict", "model", "net"):
            tensors = tensors[key] if isinstance(tensors.get(key), dict) else tensors
        network = mill.tiny.network()
        network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in tensors.items()})
        mill.assert_tables(output, network)

    path.write_bytes(b"")
    try_mutants(mill, count, mutants, lambda content: mill.run(path, content, then), record_property)
    path.unlink()
