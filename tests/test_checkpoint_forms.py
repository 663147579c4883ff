"""Checkpoints as training code writes them, and files that are none: names, containers, masks, tensors, bombs."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command import command
from tiny import Tiny
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nci_plugin.checks import PluginError
from nci_plugin.networks.checkpoints import load_checkpoint, read_state_dict

State = dict[str, Tensor]


class Net(nn.Module):
    """Its ``mask`` is infinite above the diagonal, as a causal one is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


class Holder(nn.Module):
    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)


TRAINED = Net(seed=1)
STATE: State = TRAINED.state_dict()


def loads(contents: object, path: Path, network: nn.Module | None = None) -> str:
    """Load what was saved, and check that the network has the trained weights then; returns what was said."""
    network = Net() if network is None else network
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in contents.items()}, path)  # type: ignore[attr-defined]
    else:
        torch.save(contents, path)
    taken = load_checkpoint(network, path)
    loaded = {name.replace("_orig_mod.", ""): tensor for name, tensor in network.state_dict().items()}
    assert len(loaded) == len(STATE)
    for name, tensor in STATE.items():
        (found,) = (value for key, value in loaded.items() if f".{key}".endswith(f".{name}"))
        assert torch.equal(found, tensor), name
    return taken


def refused(contents: object, path: Path, network: nn.Module | None = None) -> str:
    network = Net() if network is None else network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save(contents, path)
    with pytest.raises(PluginError) as error:
        load_checkpoint(network, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items()), "nothing was loaded"
    assert str(error.value).startswith(f"checkpoint '{path}': ")
    assert "\n" not in str(error.value)
    return str(error.value)


# -------------------------------------------------------------------- names

PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "network.",
    "backbone.",
    "module._orig_mod.",
    "_orig_mod.module.",
]
PREFIXES += ["model.module.", "model._orig_mod.", "module.model.", "a.b.c.", "model.model.", "fc."]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_prefix_before_all_names(tmp_path: Path, prefix: str, suffix: str) -> None:
    assert loads({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / f"a{suffix}") == ""


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.inner."])
def test_a_network_whose_names_have_a_prefix(tmp_path: Path, prefix: str) -> None:
    """Wrapped by its factory: its own names, plain ones, and those under another prefix all fit."""
    for before in (prefix, "", "_orig_mod.", "module."):
        network: nn.Module = Net()
        for part in reversed(prefix[:-1].split(".")):
            network = Holder(part, network)
        loads({before + name: tensor for name, tensor in STATE.items()}, tmp_path / "a.pt", network)


@pytest.mark.usefixtures("compiler")
def test_wrappers_of_torch(tmp_path: Path) -> None:
    compiled = torch.compile(TRAINED, backend="eager")
    wrapped = {
        "data parallel": nn.DataParallel(TRAINED),
        "compiled": compiled,
        "compiled data parallel": torch.compile(nn.DataParallel(TRAINED), backend="eager"),
        "data parallel of compiled": nn.DataParallel(compiled),
        "averaged": AveragedModel(TRAINED),
        "averaged data parallel": AveragedModel(nn.DataParallel(TRAINED)),
        "averaged compiled": AveragedModel(compiled),
    }
    for name, network in wrapped.items():
        loads(network.state_dict(), tmp_path / f"{name}.pt")
        loads(STATE, tmp_path / "plain.pt", torch.compile(Net(), backend="eager"))
        loads({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / f"{name} under a key.pt")
    inner = nn.Sequential(nn.Identity(), torch.compile(TRAINED, backend="eager")).state_dict()
    loads(inner, tmp_path / "inner.pt", nn.Sequential(nn.Identity(), Net()))
    loads(STATE, tmp_path / "plain.pt", nn.Sequential(nn.Identity(), Net()))


def test_counts_of_a_profiler_are_left_out(tmp_path: Path) -> None:
    """thop leaves them in every module; at the root they have no prefix."""
    counts = {f"{place}{name}": torch.zeros(1, dtype=torch.float64) for place in ("", "conv.", "fc.") for name in THOP}
    loads({**STATE, **counts}, tmp_path / "a.pt")
    loads({**{f"module.{name}": tensor for name, tensor in STATE.items()}, **counts}, tmp_path / "b.pt")
    network = Net()
    network.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
    torch.save(STATE, tmp_path / "c.pt")
    load_checkpoint(network, tmp_path / "c.pt")
    assert torch.equal(network.fc.weight, TRAINED.fc.weight)


THOP = ("total_ops", "total_params")


def test_a_prefix_that_not_all_names_have_is_refused(tmp_path: Path) -> None:
    mixed = {("model." if "conv" in name else "") + name: tensor for name, tensor in STATE.items()}
    assert "'conv.weight' is missing" in refused(mixed, tmp_path / "a.pt")
    more = {**{f"model.{name}": tensor for name, tensor in STATE.items()}, "criterion.weight": torch.ones(3)}
    assert "'conv.weight' is missing" in refused(more, tmp_path / "b.pt")
    unlike = {f"model{name}": tensor for name, tensor in STATE.items()}  # no dot: another name, no prefix
    assert "'conv.weight' is missing" in refused(unlike, tmp_path / "c.pt")
    both = {**STATE, **{f"_orig_mod.{name}": tensor for name, tensor in STATE.items()}}
    assert "is not in the network" in refused(both, tmp_path / "d.pt")


# -------------------------------------------------------------------- containers

CONTAINERS = ["state_dict", "model", "model_state", "model_state_dict", "network", "weights", "net", "state_dict_ema"]
CONTAINERS += ["model_ema", "params", "module"]


@pytest.mark.parametrize("key", CONTAINERS)
def test_weights_under_a_key(tmp_path: Path, key: str) -> None:
    beside = {"epoch": 3, "optimizer": {"lr": 0.1, "state": {}}, "best": 0.9, "args": {"model": "resnet"}}
    assert loads({**beside, key: STATE}, tmp_path / "a.pt") == ""
    assert loads({key: {**beside, "state_dict": STATE}}, tmp_path / "b.pt") == ""
    assert loads({**beside, key: {f"module.{name}": each for name, each in STATE.items()}}, tmp_path / "c.pt") == ""


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema"), ("params", "params_ema")],
)
def test_averaged_weights_are_taken_and_named(tmp_path: Path, raw: str, averaged: str) -> None:
    contents = {raw: Net(seed=5).state_dict(), averaged: AveragedModel(TRAINED).state_dict()}
    for order in (contents, dict(reversed(contents.items()))):
        assert loads(order, tmp_path / "a.pt") == f"averaged weights '{averaged}' taken, not '{raw}'"


def test_averages_that_are_no_weights_of_the_network_are_not_taken(tmp_path: Path) -> None:
    parameters = {name: tensor for name, tensor in Net(seed=5).named_parameters()}
    shadow = {"decay": 0.99, "shadow": dict(parameters)}
    assert loads({"state_dict": STATE, "ema": shadow}, tmp_path / "a.pt") == ""
    assert loads({"state_dict": STATE, "ema": parameters}, tmp_path / "b.pt") == "weights 'state_dict' taken, not 'ema'"
    assert loads({"model": STATE, "state_dict": Net(5).fc.state_dict()}, tmp_path / "c.pt").startswith(
        "weights 'model'"
    )


def test_the_command_says_which_weights_it_took(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    weights = torch.load(tiny.checkpoint, weights_only=True)
    other = {name: tensor + 1 for name, tensor in weights.items()}
    path = tmp_path / "both.pt"
    torch.save(
        {"state_dict": other, "state_dict_ema": {f"module.{name}": each for name, each in weights.items()}}, path
    )
    code, out, _ = command(tiny.eval("msp", ckpt_path=path))
    assert code == 0
    assert f"{path}: averaged weights 'state_dict_ema' taken, not 'state_dict'\n" in out
    code, alone, _ = command(tiny.eval("msp", output=tmp_path / "alone"))
    assert code == 0
    assert "taken" not in alone
    tables = [(output / "ood" / "msp.csv").read_text() for output in (tiny.output, tmp_path / "alone")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    "contents",
    [{"encoder": STATE}, {"state_dict": {}}, {}, [], "text", {"model": {"model": {"model": {"model": STATE}}}}],
)
def test_what_holds_no_weights_says_what_it_holds(tmp_path: Path, contents: object) -> None:
    message = refused(contents, tmp_path / "a.pt")
    assert "expected a state dict of named tensors; save network.state_dict(), not" in message


# -------------------------------------------------------------------- numbers


def test_infinity_where_the_fresh_network_has_it(tmp_path: Path) -> None:
    assert STATE["mask"].isinf().any()
    loads(STATE, tmp_path / "a.pt")
    for place, value in (((0, 0), float("-inf")), ((0, 1), float("inf")), ((0, 1), float("nan"))):
        mask = STATE["mask"].clone()
        mask[place] = value
        assert "'mask' holds NaN or infinity" in refused({**STATE, "mask": mask}, tmp_path / "b.pt")
    weights = STATE["fc.weight"].clone().fill_(float("-inf"))
    assert "'fc.weight' holds NaN or infinity" in refused({**STATE, "fc.weight": weights}, tmp_path / "c.pt")


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision(tmp_path: Path, precision: torch.dtype) -> None:
    state = {name: each.to(precision) if each.is_floating_point() else each for name, each in STATE.items()}
    torch.save(state, tmp_path / "a.pt")
    network = Net()
    load_checkpoint(network, tmp_path / "a.pt")
    assert torch.equal(network.fc.weight, state["fc.weight"].float())


ODD = {
    "sparse": lambda weight: weight.to_sparse(),
    "compressed rows": lambda weight: weight.to_sparse_csr(),
    "meta": lambda weight: weight.to("meta"),
    "quantised": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    "complex": lambda weight: weight.to(torch.complex64),
    "integers": lambda weight: weight.int(),
    "booleans": lambda weight: weight > 0,
    "a view of one number": lambda _: torch.zeros(1).expand(10**6, 10**6),
    "float8_e4m3fn": lambda weight: weight.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda weight: weight.to(torch.float8_e5m2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_one_line(tmp_path: Path, kind: str) -> None:
    if kind.startswith("float8"):
        try:
            torch.save(ODD[kind](STATE["fc.weight"]), tmp_path / "alone.pt")
        except (AttributeError, KeyError):
            pytest.skip("this torch has no such type, or cannot save it")
    message = refused({**STATE, "fc.weight": ODD[kind](STATE["fc.weight"])}, tmp_path / "a.pt")
    assert "'fc.weight' is " in message or "cannot be read" in message or "nothing was unpickled" in message


@pytest.mark.filterwarnings("ignore")
def test_a_nested_tensor_is_one_line(tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    try:
        torch.save(nested, tmp_path / "alone.pt")
    except RuntimeError:
        pytest.skip("this torch cannot save one")
    refused({**STATE, "fc.bias": nested}, tmp_path / "a.pt")
    refused({**STATE, "more": nested}, tmp_path / "a.pt")


def test_counts_that_were_averaged_are_whole_numbers(tmp_path: Path) -> None:
    network = nn.Sequential(OrderedDict(fc=nn.Linear(2, 2)))
    network.register_buffer("index", torch.arange(3))
    state = network.state_dict()
    torch.save({**state, "index": torch.tensor([2.0, 1.0, 0.0])}, tmp_path / "a.pt")
    load_checkpoint(network, tmp_path / "a.pt")
    assert network.index.tolist() == [2, 1, 0]
    assert "'index' is torch.float32" in refused(
        {**state, "index": torch.tensor([0.5, 1, 2])}, tmp_path / "b.pt", network
    )


# -------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a git-lfs pointer.*git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"<HTML><head>", "a web page"),
        (b'<?xml version="1.0"?><Error>', "a web page"),
        (b"", "it is empty"),
        (b"  \n", "it is empty"),
    ],
)
def test_files_in_the_place_of_a_checkpoint_are_called_by_their_name(
    tmp_path: Path, name: str, data: bytes, text: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PluginError, match=text):
        read_state_dict(tmp_path / name)


def test_a_compressed_member_is_not_read(tmp_path: Path) -> None:
    """64 MiB of zeros in a file of 64 KiB; with 4 GB it would be the same."""
    torch.save(STATE, tmp_path / "whole.pt")
    for file in ("a.pt", "a.ckpt"):
        with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / file, "w") as bomb:
            for number, name in enumerate(whole.namelist()):
                data = bytes(2**26) if number == 1 else whole.read(name)
                bomb.writestr(name, data, zipfile.ZIP_DEFLATED if number == 1 else zipfile.ZIP_STORED)
        with pytest.raises(PluginError, match=r"its member '.*' is compressed, which torch.save never does"):
            read_state_dict(tmp_path / file)


def test_members_that_overlap_are_not_read(tmp_path: Path) -> None:
    """One stored member, listed many times: a small file of many gigabytes."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", bytes(2**20))
        archive.filelist += [archive.filelist[0]] * 5000
    with pytest.raises(PluginError, match="its members overlap"):
        read_state_dict(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_devices_and_directories_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    (tmp_path / "directory.pt").mkdir()
    for name in ("pipe.pt", "zero.pt", "directory.pt"):
        with pytest.raises(PluginError, match="must be a regular file"):
            read_state_dict(tmp_path / name)
    (tmp_path / "nowhere.pt").symlink_to(tmp_path / "not there")
    for path in (tmp_path / "nowhere.pt", tmp_path / "missing.pt"):
        with pytest.raises(PluginError, match="there is no such file"):
            read_state_dict(path)
    for path in (tmp_path / ("x" * 300), tmp_path / "a\0b", tmp_path / "directory.pt" / "a" / "b"):
        with pytest.raises(PluginError, match=r"cannot be read|no such file"):
            read_state_dict(path)
