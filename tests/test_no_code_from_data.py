"""What is data names networks by a table and never code: a benchmark's YAML, and what lies beside a checkpoint."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import command, dynamics
from tiny import Tiny, draw_nothing

from nci_plugin import built_in
from nci_plugin.checks import PluginError
from nci_plugin.config import benchmark_names, load_benchmark
from nci_plugin.networks.factory import build_network
from nci_plugin.networks.named import build_named, check_named, label

pytestmark = pytest.mark.usefixtures("one_thread")

CODE = (
    "os:system",
    "nci_plugin.networks.factory:build_network",
    "nci_plugin.networks.resnet:BasicBlock",
    "nci_plugin.networks.resnet:ResNet18_32x32.__init__",
    "torch.hub:load",
    "torchvision.models:get_model",  # it is no classifier of the library's
    "code/net.py:make",
    "evil:make",
    "timm:hf-hub:someone/model",
    "timm:local-dir:weights",
    "timm:resnet18/../x",
    "torchvision:resnet18\n",
    "TORCHVISION:resnet18",
    "resnet18",
    "",
    "x" * 10**5,
    ["os:system"],
    {"os": "system"},
    None,
    3,
)
ARGUMENTS = (
    ("torchvision:resnet18", {"weights": "DEFAULT"}),
    ("torchvision:resnet18", {"progress": True}),
    ("torchvision:resnet18", {"num_classes": "3"}),
    ("torchvision:resnet18", {"num_classes": 10**40}),
    ("torchvision:resnet18", {"num_classes": True}),
    ("torchvision:vit_b_16", {"dropout": 2}),
    ("torchvision:vit_b_16", {"dropout": float("nan")}),
    ("timm:resnet18", {"pretrained": True}),
    ("timm:resnet18", {"checkpoint_path": "evil.pth"}),
    ("timm:resnet18", {"pretrained_cfg": {"url": "https://example.org/evil.pth"}}),
    ("timm:resnet18", {"features_only": True}),
    ("timm:resnet18", {"global_pool": "../x"}),
    ("resnet18_32x32", {"width": [16]}),
    ("resnet18_32x32", {"width": 0}),
    ("resnet18_32x32", {"head": "os:system"}),
    ("resnet18_32x32", {"spec": "os:system"}),
    ("resnet18_32x32", {1: 2}),
    ("mlp", {"activation": {"x": 1}}),
    ("mlp", []),
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """In the working directory a module ``evil`` that says when it runs, as a downloaded directory may hold one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("nci_plugin.report.dynamics_files.draw", lambda analysis, output: [])
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\ndef make(**arguments): open('ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda text: (tmp_path / "ran").touch())
    return Tiny(tmp_path)


def refuse(tiny: Tiny, arguments: list[str]) -> str:
    """One line, exit code 2, and nothing has run or been written."""
    path = list(sys.path)
    code, _, error = command(arguments)
    assert (code, error.count("\n")) == (2, 1), error
    assert len(error) < 2200
    assert not (tiny.root / "ran").exists()
    assert not tiny.output.exists()
    assert sys.path == path
    assert "evil" not in sys.modules
    return error


# -------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", CODE, ids=lambda name: repr(name)[:40])
def test_a_name_that_is_not_in_the_table(name: Any) -> None:
    if name == "torchvision.models:get_model":
        with pytest.raises(PluginError, match="torchvision has no such model"):
            build_named("here", name, 3, {})
        return
    with pytest.raises(PluginError, match=r"here: factory: .* pass another with --net FILE.py:FACTORY") as caught:
        check_named("here", name, {})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS)
def test_an_argument_that_the_table_does_not_allow(name: str, arguments: Any) -> None:
    with pytest.raises(PluginError, match="here: arguments"):
        check_named("here", name, arguments)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("resnet18_32x32", "resnet18_32x32"),
        ("nci_plugin.networks.resnet:ResNet18_32x32", "resnet18_32x32"),
        ("mlp", "mlp"),
        ("nci_plugin.networks.mlp:MLP", "mlp"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("torchvision.models:resnet18", "torchvision:resnet18"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "timm:vit_tiny_patch16_224.augreg_in21k"),
    ],
)
def test_names_of_the_table(name: str, known: str) -> None:
    assert check_named("here", name, {"num_classes": 3}) == known


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18_32x32", {"width": 4, "blocks_per_stage": 1, "head": "fixed_etf"}),
        ("mlp", {"width": 8, "depth": 1, "activation": "tanh", "image_size": 4}),
        ("torchvision:mobilenet_v2", {"dropout": 0.1, "width_mult": 0.25}),
    ],
)
def test_the_same_network_as_by_the_users_word(name: str, arguments: dict[str, Any]) -> None:
    networks = []
    for build in (lambda: build_named("here", name, 5, arguments), lambda: build_network(name, 5, arguments)):
        torch.manual_seed(0)
        networks.append(build().state_dict())
    assert networks[0].keys() == networks[1].keys()
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("resnet18_32x32", {"width": 9999}), ("mlp", {"width": 10**6, "depth": 1000, "image_size": 1})],
)
def test_a_network_that_no_memory_holds_takes_none(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="parameters, more than"):
        build_named("here", name, 10, arguments)


def test_names_of_architectures_in_tables() -> None:
    """As before these networks had names of their own: what was measured then goes on."""
    assert label("resnet18_32x32") == "ResNet18_32x32"
    assert label("torchvision:resnet50") == "resnet50"
    assert label("code/net.py:make") == "make"


def test_shipped_benchmarks_use_the_table() -> None:
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        assert check_named(name, benchmark.network, benchmark.network_arguments) == benchmark.network


# -------------------------------------------------------------------- a benchmark's YAML


@pytest.mark.parametrize("name", ["os:system", "evil:make", "code/net.py:make"])
@pytest.mark.parametrize("sub_command", ["eval", "diagnose", "explain", "validate", "dynamics"])
def test_code_of_a_yaml_file(tiny: Tiny, name: str, sub_command: str) -> None:
    tiny.config["benchmark"]["network"] = {"factory": name, "arguments": {"command": "touch ran"}}
    tiny.save_config()
    _, benchmark, _, _, *rest = tiny.eval(net=None)
    tiny.save_checkpoint(tiny.root / "run" / "epoch1.ckpt", seed=0)
    arguments = {
        "eval": tiny.eval(net=None),
        "diagnose": ["diagnose", benchmark, *rest],
        "explain": ["explain", str(tiny.image("test", 0)), benchmark, *rest],
        "validate": ["validate", benchmark],
        "dynamics": ["dynamics", str(tiny.root / "run"), "--benchmark", benchmark, "--output", str(tiny.output)],
    }[sub_command]
    assert "--net FILE.py:FACTORY" in refuse(tiny, arguments)


def test_a_yaml_file_names_a_network_of_the_table(tiny: Tiny) -> None:
    tiny.config["benchmark"]["network"] = {"factory": "mlp", "arguments": {"width": 4, "depth": 1, "image_size": 2}}
    tiny.save_config()
    checkpoint = tiny.root / "mlp.ckpt"
    torch.save(build_network("mlp", 3, {"width": 4, "depth": 1, "image_size": 2}).state_dict(), checkpoint)
    code, _, error = command(tiny.eval(net=None, ckpt_path=checkpoint))
    assert (code, error) == (0, "")


def test_where_a_built_in_benchmark_is_written_is_no_path_of_the_yaml_file(tiny: Tiny) -> None:
    tiny.config["benchmark"] |= {"built_in": "digits", "network": {"factory": "mlp"}}
    for place in ("../elsewhere", str(tiny.root / "elsewhere"), ".."):
        tiny.config["benchmark"]["checkpoints"] = place
        tiny.save_config()
        refuse(tiny, tiny.eval(net=None, ckpt_path=None))
    assert not (tiny.root / "elsewhere").exists()


# -------------------------------------------------------------------- training.json


def train(tiny: Tiny, **said: Any) -> list[str]:
    """Arguments of ``dynamics`` on a directory with a checkpoint and a ``training.json`` of somebody's."""
    tiny.config["benchmark"]["network"] = {"factory": "mlp"}
    tiny.save_config()
    tiny.save_checkpoint(tiny.root / "run" / "epoch1.ckpt", seed=0)
    (tiny.root / "run" / "training.json").write_text(json.dumps(said))
    return dynamics(tiny, tiny.root / "run", net=None)


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("os:system", {"command": "touch ran"}),
        (
            "nci_plugin.networks.factory:build_network",
            {"spec": "os:system", "num_classes": 3, "arguments": {"command": "touch ran"}},
        ),
        ("nci_plugin.networks.factory:find_factory", {"spec": "evil:make"}),
        ("evil:make", {}),
        ("mlp", {"checkpoint": "x"}),
        ("mlp", 3),
        ({"mlp": 1}, {}),
    ],
)
def test_code_beside_a_checkpoint(tiny: Tiny, network: Any, arguments: Any) -> None:
    run = train(tiny, benchmark="digits", network=network, network_arguments=arguments)
    code, _, error = command(run)
    assert (code, error.count("\n")) == (2, 1), error
    assert "training.json" in error
    assert not (tiny.root / "ran").exists()


def test_the_users_own_factory_goes_before_what_lies_beside(tiny: Tiny) -> None:
    train(tiny, benchmark="digits", network="evil:make", network_arguments={"x": 1})
    code, _, error = command(dynamics(tiny, tiny.root / "run"))
    assert (code, error) == (0, "")
    assert not (tiny.root / "ran").exists()


@pytest.mark.parametrize("benchmark", ["tiny.yml", "../x.yml", "/etc/passwd", "tiny", "", 3, ["digits"], None])
def test_a_benchmark_beside_a_checkpoint_ships(tiny: Tiny, benchmark: Any) -> None:
    arguments = train(tiny, benchmark=benchmark)
    at = arguments.index("--benchmark")
    del arguments[at : at + 2]
    error = refuse(tiny, arguments)
    assert "which does not ship; name your YAML file yourself" in error


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"text"',
        "[" * 10**5,
        '{"recipe": []}',
        '{"network_arguments": [1]}',
        '{"benchmark": "digits", "benchmark": "cifar10"}',
        '{"recipe": {"loss": "ce", "loss": "mse"}}',
        '{"recipe": {"x": 1' + "0" * 400 + "}}",
        '{"recipe": {"x": NaN}}',
        '{"recipe": {"x": "\\ud800"}}',
        '{"recipe": {"\\u001b[2J": 3}}',
        "\xff",
    ],
    ids=lambda text: text[:30],
)
def test_a_damaged_training(tiny: Tiny, text: str) -> None:
    arguments = dynamics(tiny, (tiny.root / "run"))
    train(tiny)
    (tiny.root / "run" / "training.json").write_bytes(text.encode("latin-1"))
    code, _, error = command(arguments)
    assert (code, error.count("\n")) == (2, 1), error
    assert "training" in error
    assert error.strip().isprintable()


@pytest.mark.parametrize("name", ["training.json", "history.jsonl", "history.csv"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_lies_beside_is_a_regular_file(tiny: Tiny, name: str, kind: str) -> None:
    tiny.save_checkpoint(tiny.root / "run" / "epoch1.ckpt", seed=0)
    path = tiny.root / "run" / name
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    assert "must be a regular file" in refuse(tiny, dynamics(tiny, tiny.root / "run"))


@pytest.mark.parametrize("accuracy", ["0.4,0.93", "0.004,1", "-1,80", "80,100.5"])
@pytest.mark.parametrize("column", ["accuracy", "train_accuracy"])
def test_an_accuracy_that_is_no_percentage(tiny: Tiny, accuracy: str, column: str) -> None:
    tiny.save_checkpoint(tiny.root / "run" / "epoch1.ckpt", seed=0)
    first, second = accuracy.split(",")
    (tiny.root / "run" / "history.csv").write_text(f"epoch,{column}\n1,{first}\n2,{second}\n3,\n")
    code, _, error = command(dynamics(tiny, tiny.root / "run"))
    assert (code, error.count("\n")) == (2, 1), error
    assert f"'{column}'" in error
    (tiny.root / "run" / "history.csv").write_text(f"epoch,{column}\n1,0\n2,0\n")
    assert command(dynamics(tiny, tiny.root / "run"))[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        "epoch,loss\n1,abc\n",
        "epoch,loss\n1e999,1\n",
        "epoch,loss\n1,inf\n",
        "epoch,accuracy\nx,1\n",
        "epoch,loss\n1,1\n1.5,1\n",
        "",
    ],
)
def test_a_history_of_something_else(tiny: Tiny, text: str) -> None:
    tiny.save_checkpoint(tiny.root / "run" / "epoch1.ckpt", seed=0)
    (tiny.root / "run" / "history.csv").write_text(text)
    code, _, error = command(dynamics(tiny, tiny.root / "run"))
    assert (code, error.count("\n")) == (2, 1), error
    assert "history.csv" in error


def test_a_training_that_was_written_before_its_network_had_a_name(tmp_path: Path) -> None:
    """It is the same training: it goes on, and ``dynamics`` knows the network."""
    benchmark = built_in.with_network(load_benchmark("digits"), "mlp", {"width": 4})
    recipe = built_in.Recipe(epochs=1)
    built_in._describe(benchmark, tmp_path, recipe)
    path = tmp_path / built_in.TRAINING
    assert json.loads(path.read_text())["network"] == "mlp"
    path.write_text(path.read_text().replace('"mlp"', '"nci_plugin.networks.mlp:MLP"'))
    built_in._describe(benchmark, tmp_path, recipe)
    with pytest.raises(PluginError, match="holds another training"):
        built_in._describe(benchmark, tmp_path, built_in.Recipe(epochs=2))
