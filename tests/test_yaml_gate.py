"""A YAML file is read whole and bounded, whatever it holds: no key twice, no bomb of aliases, no pipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command import command
from tiny import Tiny

from nci_plugin.checks import PluginError
from nci_plugin.config import load_benchmark, load_detector
from nci_plugin.evaluation.configuration import load_yaml
from nci_plugin.parsing import YAML_BYTES, YAML_DEPTH, read_json

LOCATION = "{data_dir: images/, imglist_path: lists/x.txt}"
BENCHMARK = f"""\
benchmark:
  name: mine
  num_classes: 3
  preprocessing: {{pre_size: 8, img_size: 8, normalization: [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]}}
  id:
    test: {LOCATION}
  ood:
    far:
      datasets: [f]
      f: {LOCATION}
"""
BOMB = "".join(f"  - &a{n} [{f'*a{n - 1}, *a{n - 1}' if n else 'lol'}]\n" for n in range(30))
KEYS = ("name", "num_classes", "preprocessing", "id", "ood", "csid", "network", "checkpoints", "built_in", "other")


@pytest.fixture
def parse(tmp_path):
    def run(text: str, load=load_yaml):
        path = tmp_path / "a.yml"
        path.write_text(text, encoding="utf-8")
        return load(path if load is load_yaml else str(path))

    return run


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a'"),
        ("a: 1\n'a': 1\n", 2, "'a'"),
        ("a:\n  - {b: 1,\n     c: 2, b: 3}\n", 3, "'b'"),
        ("a:\n  x:\n    y: 1\n    z: 2\n    y: 1\n", 5, "'y'"),
        ("yes: 1\ntrue: 2\n", 2, "True"),
        ("10: 1\n0xA: 2\n", 2, "10"),
        ("a: &a {x: 1}\nb: &b {y: 1}\nc:\n  <<: *a\n  <<: *b\n", 5, "'<<'"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  z: 2\n  z: 3\n", 5, "'z'"),
        ("? {q: 1, q: 2}\n: 3\n", 1, "'q'"),
        ("x: !!set {a, b, a}\n", 1, "'a'"),
    ],
)
def test_a_key_that_stands_twice(parse, text, line, key):
    with pytest.raises(PluginError) as caught:
        parse(text)
    assert f"a.yml' line {line}: not valid YAML (the key {key} stands there twice); correct it" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\n", {"base": {"x": 1, "y": 2}, "mine": {"x": 1, "y": 3}}),
        (
            "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n",
            {"a": {"x": 1}, "b": {"x": 2, "y": 2}, "c": {"x": 1, "y": 2}},
        ),
        ("a: &a [1, 2]\nb: *a\nc: *a\n", {"a": [1, 2], "b": [1, 2], "c": [1, 2]}),
        ("a: {b: 1}\nc: {b: 1}\n", {"a": {"b": 1}, "c": {"b": 1}}),
        ("1: a\n'1': b\n", {1: "a", "1": "b"}),
        ("", None),
        ("# nothing\n", None),
        ("--- 3\n", 3),
        ("[" * (YAML_DEPTH - 1) + "]" * (YAML_DEPTH - 1), None),
    ],
)
def test_sound_yaml(parse, text, data):
    assert parse(text) == data or text.startswith("[[")


@pytest.mark.parametrize(
    "text",
    [
        f"a:\n{BOMB}",
        f"x:\n{BOMB}benchmark: *a29\n",
        "".join(f"k{n}: &k{n} {{<<: [{', '.join(f'*k{n - 1}' for _ in range(9)) if n else ''}]}}\n" for n in range(30)),
        "a: &a [1, *a]\n",
        "a: &a {b: *a}\n",
        "[" * 1000 + "]" * 1000,
        "[" * 100_000,
        "{a: " * 500,
        "- " * 20_000,
        "a:\n" + "".join(" " * n + "b:\n" for n in range(1, 400)),
        "a: [" + "1, " * 21_000 + "]",
    ],
    ids=["bomb", "bomb aside", "merges", "circle", "circle of keys", *"123456"],
)
def test_yaml_that_would_not_end(parse, text):
    with pytest.raises(PluginError, match=r"a\.yml'.*not valid YAML") as caught:
        parse(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", KEYS)
def test_a_bomb_under_every_key_of_a_benchmark(parse, key):
    lines = [line for line in BENCHMARK.splitlines() if not line.startswith(f"  {key}:")]
    text = "\n".join([f"x:\n{BOMB}", *lines, f"  {key}: *a29", ""])
    with pytest.raises(PluginError, match="not valid YAML") as caught:
        parse(text, load_benchmark)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("place", ["postprocessor_args: {alpha: *a12}", "postprocessor_sweep: {alpha_list: *a12}"])
def test_what_many_aliases_make_is_quoted_in_few_characters(parse, place):
    """Twelve are within bounds, and 8,000 characters."""
    aliases = BOMB.splitlines()[:13]
    with pytest.raises(PluginError) as caught:
        parse("\n".join(["postprocessor:", "  name: nci", "  APS_mode:", *aliases, f"  {place}"]), load_detector)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_too_large(parse):
    with pytest.raises(PluginError, match="larger than 0.25 MiB"):
        parse("#" * YAML_BYTES + "\n")


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "link", "directory"])
@pytest.mark.parametrize(
    "arguments", [["eval", "FILE"], ["validate", "FILE"], ["eval", "digits", "--detectors", "FILE"]]
)
def test_what_is_no_file(tmp_path: Path, target: str, arguments: list[str]) -> None:
    path = tmp_path / "a.yml"
    if target == "pipe":
        os.mkfifo(path)
    elif target == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if target == "link" else tmp_path / "gone")
    code, _, error = command([str(path) if argument == "FILE" else argument for argument in arguments])
    assert (code, error.count("\n")) == (2, 1)
    assert "a.yml" in error


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_classes: 3", f"num_classes: {'9' * 40}", "num_classes"),
        ("num_classes: 3", "num_classes: 1e999", "num_classes"),
        ("num_classes: 3", "num_classes: !!timestamp 2001-01-01", "num_classes"),
        ("num_classes: 3", "num_classes: 2001-01-01", "num_classes"),
        ("num_classes: 3", "num_classes: !!binary aGk=", "num_classes"),
        ("name: mine", "name: 2001-01-01", "name"),
        ("name: mine", "name: yes", "name"),
        ("name: mine", "name: 1.50", "name"),
        ("name: mine", r'name: "a\0b"', "name"),
        ("name: mine", r'name: "\ud800"', "name"),
        ("name: mine", f"name: {'x' * 121}", "name"),
        ("name: mine", "name: [mine]", "name"),
        ("data_dir: images/", r'data_dir: "a\0b"', "data_dir"),
        ("data_dir: images/", r'data_dir: "\udc00"', "data_dir"),
        ("data_dir: images/", "data_dir: 2001-01-01", "data_dir"),
        ("datasets: [f]\n      f:", 'datasets: ["../f"]\n      "../f":', "far"),
        ("datasets: [f]\n      f:", 'datasets: ["f\\e[2J"]\n      "f\\e[2J":', "far"),
        ("datasets: [f]\n      f:", "datasets: [2001-01-01]\n      2001-01-01:", "far"),
        ("datasets: [f]\n      f:", "datasets: [yes]\n      yes:", "far"),
        ("pre_size: 8", f"pre_size: {'8' * 5000}", "not valid YAML|pre_size"),
        ("[0.5, 0.5, 0.5], [", f"[{'9' * 400}, 0.5, 0.5], [", "normalization"),
    ],
)
def test_values_that_no_benchmark_has(parse, old, new, said):
    assert old in BENCHMARK
    with pytest.raises(PluginError, match=said) as caught:
        parse(BENCHMARK.replace(old, new), load_benchmark)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_names_that_yaml_reads_as_whole_numbers(parse):
    text = BENCHMARK.replace("name: mine", "name: 2024").replace("datasets: [f]\n      f:", "datasets: [1]\n      '1':")
    benchmark = parse(text, load_benchmark)
    assert benchmark.name == "2024"
    assert list(benchmark.splits) == ["id/test", "far/1"]


@pytest.mark.parametrize("split", ["pipe", "link"])
def test_an_image_list_that_is_no_file(tmp_path: Path, split: str) -> None:
    tiny = Tiny(tmp_path)
    tiny.list("test").unlink()
    os.mkfifo(tiny.list("test")) if split == "pipe" else tiny.list("test").symlink_to("/dev/zero")
    code, _, error = command(tiny.eval())
    assert (code, error.count("\n")) == (2, 1)
    assert "must be a regular file" in error


@pytest.mark.parametrize("text", ['{"a": {"b": 1, "b": 1}}', "[" * 10**6, "9" * 5000, "{", ""])
def test_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PluginError, match=r"record '.*a\.json': is damaged, no valid JSON \(.*\); move it away"):
        read_json(tmp_path / "a.json", "record", "move it away")
