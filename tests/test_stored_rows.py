"""Rows and scores of a results directory that someone else made: read as they are or refused, and never a path."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tree

from nci_plugin import Benchmark, Detector, Features, PluginError, evaluate
from nci_plugin.api import resolve_detectors
from nci_plugin.cli.main import main
from nci_plugin.detectors import registry
from nci_plugin.dynamics.trajectory import TrajectoryFile, read_trajectory
from nci_plugin.evaluation.directory import NPZ_BYTES, ResultsDirectory
from nci_plugin.evaluation.results import Result, read_results
from nci_plugin.files import digest

EARLIER = Path(__file__).parent / "earlier_results"


class Marked:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "a" / "b" / "stored"))


@pytest.fixture
def refused(tmp_path: Path, stored: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line with which a command refuses the directory; nothing is written anywhere."""

    def run(*arguments: str) -> str:
        before = {path: None if content is None else True for path, content in tree(tmp_path).items()}
        code = main([*arguments, str(stored)] if arguments[0] != "report" else ["report", str(stored), "--figures"])
        error = capfd.readouterr().err
        assert code == 2
        assert error.startswith("nci-ood: error: ")
        assert error.count("\n") == 1
        assert error[:-1].isprintable()
        assert {path: None if content is None else True for path, content in tree(tmp_path).items()} == before
        return error

    return run


def write(stored: Path, change: Callable[[dict[str, Any]], Any], detector: str = "nci") -> None:
    """Change the rows of a detector, with right checksums."""
    lines = []
    for row in read_results(stored / "results.jsonl"):
        raw = asdict(row)
        if row.detector == detector:
            change(raw)
        lines.append(json.dumps({**raw, "checksum": digest(json.dumps(raw))}))
    (stored / "results.jsonl").write_text("\n".join(lines) + "\n")


BAD_NAMES = [
    "../../../../X",
    "a/b/c",
    "..",
    ".",
    "",
    "a" * 400,
    "a\rb",
    "\x1b[31mred",
    "a\\b",
    "=cmd|' /C calc'!A0",
    "@x",
    "+1",
    "-1",
    "a\nb",
    "\ud800",
    3,
    None,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
@pytest.mark.parametrize("field", ["detector", "seed", "dataset", "benchmark"])
def test_names(stored: Path, refused: Callable[..., str], field: str, name: Any) -> None:
    if field == "seed" and name == "":
        return  # that of a single network
    write(stored, lambda raw: raw.update({field: name}))
    for command in ("report", "leaderboard rank"):
        error = refused(*command.split())
        assert "results.jsonl' line" in error
        assert field in error


VALUES: dict[str, Mapping[str, Any]] = {
    "setting": {"setting": "odd"},
    "group": {"group": "middle"},
    "huge": {"auroc": 10**400},
    "nan": {"auroc": float("nan")},
    "infinite": {"fpr95": float("inf")},
    "beyond": {"aupr_in": 100.1},
    "negative": {"acc": -1.0},
    "truth": {"auroc": True},
    "new metric": {"fpr_at_id_tpr95": "much"},
    "no samples": {"n_id": 0},
    "seconds": {"seconds": {"fit": 0.1}},
    "seconds in words": {"seconds": {"fit": "long", "search": 0, "score": 0}},
    "list": {"provenance": []},
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_values(stored: Path, refused: Callable[..., str], values: Mapping[str, Any]) -> None:
    write(stored, lambda raw: raw.update(values))
    for command in ("report", "leaderboard rank"):
        assert next(iter(values)) in refused(*command.split())


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000], ids=["list", "map", "closed"]
)
def test_nested_brackets(stored: Path, refused: Callable[..., str], text: str) -> None:
    (stored / "results.jsonl").write_text(text + "\n")
    assert "line 1" in refused("report")


@pytest.mark.parametrize("change", ["twice", "missing"])
def test_rows_that_are_not_there_once(stored: Path, refused: Callable[..., str], change: str) -> None:
    lines = (stored / "results.jsonl").read_text().splitlines(keepends=True)
    (stored / "results.jsonl").write_text("".join([*lines, lines[3]] if change == "twice" else lines[:3] + lines[4:]))
    for command in ("report", "leaderboard rank"):
        assert f"has {'2' if change == 'twice' else '0'} rows of" in refused(*command.split())


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
@pytest.mark.parametrize("name", ["results.jsonl", "scores/nci.npz"])
def test_what_is_no_regular_file(stored: Path, refused: Callable[..., str], name: str, kind: str) -> None:
    path = stored / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    refused("report")


@pytest.mark.parametrize("name", ["ood/msp.csv", "scores/msp.npz", "auroc.png", "scores/predictions.npz"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_outputs_that_are_no_regular_files(golden: Any, tmp_path: Path, name: str, kind: str) -> None:
    """Refused before the pass."""
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(PluginError, match=r"must be a regular file; move it away"):
        evaluate(golden.head, golden.benchmark(), "msp", output=tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "results.jsonl").exists()


# -------------------------------------------------------------------- scores


def scores_of(stored: Path, detector: str = "nci") -> dict[str, Any]:
    found = ResultsDirectory(stored).scores(detector, "")
    assert found is not None
    return dict(found)


SCORES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "shape": lambda found: found.update({"near/near": found["near/near"][:, None]}),
    "scalar": lambda found: found.update({"near/near": np.float64(3)}),
    "empty": lambda found: found.update({"near/near": np.zeros(0)}),
    "fewer": lambda found: found.update({"near/near": found["near/near"][1:]}),
    "text": lambda found: found.update({"near/near": np.array(["a", "b"])}),
    "complex": lambda found: found.update({"near/near": found["near/near"] + 1j}),
    "nan": lambda found: found.update({"far/far": found["far/far"] * np.nan}),
    "infinite": lambda found: found.update({"id/test": found["id/test"] + np.inf}),
    "no test split": lambda found: found.pop("id/test"),
    "group": lambda found: found.update({"middle/near": found["near/near"]}),
    "path": lambda found: found.update({"near/../../x": found["near/near"]}),
}


@pytest.mark.parametrize("change", SCORES.values(), ids=SCORES)
def test_scores(stored: Path, refused: Callable[..., str], change: Callable[[dict[str, Any]], Any]) -> None:
    found = scores_of(stored)
    change(found)
    np.savez(stored / "scores" / "nci.npz", **found)
    assert "evaluate again" in refused("report") or "rename it" in refused("report")


def test_scores_are_never_unpickled(stored: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    marked = np.array([Marked(tmp_path / "ran")], dtype=object)
    np.savez(stored / "scores" / "nci.npz", **{"id/test": marked})
    refused("report")
    (stored / "scores" / "nci.npz").write_bytes(pickle.dumps(Marked(tmp_path / "ran")))
    refused("report")
    assert not (tmp_path / "ran").exists()


def test_scores_that_inflate(stored: Path, refused: Callable[..., str]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**27,)})
    with (
        zipfile.ZipFile(stored / "scores" / "nci.npz", "w", zipfile.ZIP_DEFLATED) as members,
        members.open("id/test.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(2 * NPZ_BYTES // 2**22):
            member.write(bytes(2**22))
    assert (stored / "scores" / "nci.npz").stat().st_size < 2**22
    assert "its arrays would take 1024 MiB" in refused("report")


# -------------------------------------------------------------------- sound names that need care


ODD = '$x^{2$ & <b>"ü'


def test_a_name_that_matplotlib_would_parse(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_results(stored / "results.jsonl")
    names = {"near": "$x^{2$", "far": "$\\frac"[:1] + "{"}
    rows = [
        replace(
            row,
            benchmark=ODD,
            detector=ODD if row.detector == "nci" else row.detector,
            dataset=names.get(row.dataset, row.dataset),
        )
        for row in rows
    ]
    (stored / "results.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows))
    for detector, name in (("nci", ODD), ("msp", "msp")):
        found = {
            f"{split.split('/')[0]}/{names[split.split('/')[1]]}" if split.split("/")[1] in names else split: values
            for split, values in scores_of(stored, detector).items()
        }
        np.savez(stored / "scores" / f"{name}.npz", **found)
    assert main(["report", str(stored), "--figures"]) == 0
    assert (stored / "detectors" / f"{ODD}.svg").is_file()
    assert "$x^{2$ &amp; &lt;b&gt;" in (stored / "report.html").read_text(encoding="utf-8")


def test_texts_with_control_characters_are_shown_as_escapes(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(stored, lambda raw: raw.update(chosen_by="\x1b[31mred\r\n", hyperparameters={"a\x1b": "\x07"}))
    write(stored, lambda raw: raw["provenance"].update(checkpoint="a\udcff\x1b[2J"))
    assert main(["report", str(stored)]) == 0
    text = (stored / "report.html").read_text(encoding="utf-8")
    assert "\\x1b[31mred" in text
    assert not {"\x1b", "\x07", "\udcff"} & set(text)


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if isinstance(name, str)], ids=repr)
def test_the_same_gate_on_writing(golden: Any, tmp_path: Path, name: str) -> None:
    features = golden.features("near")

    class Odd(Detector):
        def _score(self, features: Any, logits: Any) -> Any:
            return logits[:, 0]

    Odd.name = name
    with pytest.raises(PluginError, match="rename it"):
        evaluate(golden.head, golden.benchmark(), Odd(), output=tmp_path / "out", progress=False)
    for group in ("near", "far", "csid"):
        groups: dict[str, Any] = {"near": {"near": features}, "far": {}, "csid": {}}
        groups[group] = {name: golden.features("csid" if group == "csid" else "far")}
        with pytest.raises(PluginError, match="rename it"):
            Benchmark.from_splits("mine", 6, test=golden.features("test"), **groups)
    with pytest.raises(PluginError, match="rename it"):
        Benchmark.from_splits(name, 6, test=Features(features.features, features.labels), near={"a": features}, far={})
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------- logged trainings


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name != "a/b/c"], ids=repr)
def test_names_of_runs(tmp_path: Path, name: Any) -> None:
    TrajectoryFile(tmp_path / "trajectory.jsonl", "run", {"depth": 4})
    assert read_trajectory(tmp_path).conditions == {"depth": 4}
    header = {"version": 1, "run": name, "conditions": {"depth": 4}}
    line = json.dumps({**header, "checksum": digest(json.dumps(header))})
    (tmp_path / "trajectory.jsonl").write_text(line + "\n")
    with pytest.raises(PluginError, match="line 1"):
        read_trajectory(tmp_path)


@pytest.mark.parametrize("conditions", [[], "depth", {"depth": [1]}, {"depth": {}}, {"depth": float("nan")}], ids=repr)
def test_conditions_of_runs(tmp_path: Path, conditions: Any) -> None:
    header = {"version": 1, "run": "run", "conditions": conditions}
    line = json.dumps({**header, "checksum": digest(json.dumps(header))})
    (tmp_path / "trajectory.jsonl").write_text(line + "\n")
    with pytest.raises(PluginError, match="line 1"):
        read_trajectory(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "device", "nested"])
def test_trajectories_that_are_no_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "trajectory.jsonl"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[" * 100_000 + "\n")
    with pytest.raises(PluginError, match=r"trajectory\.jsonl"):
        read_trajectory(tmp_path)


def test_a_row_of_this_version_is_sound(golden: Any, tmp_path: Path) -> None:
    evaluation = evaluate(golden.head, golden.benchmark(), ["msp", "nci"], output=tmp_path, progress=False)
    assert [Result.from_json(row.to_json()) for row in evaluation.results] == evaluation.results
    assert main(["report", str(tmp_path), "--figures"]) == 0


@pytest.mark.parametrize("names", [("a:b", "a_b"), ("predictions",), ("Predictions",), ("mine", "Mine")])
def test_two_detectors_never_share_a_file(names: tuple[str, ...]) -> None:
    detectors = [registry.create("msp") for _ in names]
    for detector, name in zip(detectors, names):
        detector.name = name
    with pytest.raises(PluginError, match=f"detector '{names[-1]}': .* a file of the same name; rename it"):
        resolve_detectors(detectors)


@pytest.mark.parametrize(
    ("run", "is_sound"), [("cifar10_lenet/s0", True), ("a/../b", False), ("/a", False), ("a//b", False)]
)
def test_a_run_may_be_a_directory_in_another_and_nothing_outside(tmp_path: Path, run: str, is_sound: bool) -> None:
    path = tmp_path / "trajectory.jsonl"
    if is_sound:
        TrajectoryFile(path, run, {})
    else:
        with pytest.raises(PluginError, match="run: a name must be"):
            TrajectoryFile(path, run, {})
