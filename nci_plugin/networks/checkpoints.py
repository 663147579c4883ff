"""Checkpoints, read without ever unpickling code."""

from __future__ import annotations

import pickle
import stat
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError, shown
from nci_plugin.networks.linear import check_weights

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
WEIGHTS = ("state_dict", "model", "model_state_dict", "model_state", "network", "weights", "net", "params", "module")
"""Keys under which training loops store the weights, averaged or as trained, beside other things.

The averaged ones are taken where both are there, as timm's loader does: the accuracy of such a training is theirs.
"""

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and its likes, AveragedModel and torch.compile put before every name."""

LEFT_OUT = ("n_averaged", "total_ops", "total_params")
BESIDE = ("num_batches_tracked", *LEFT_OUT)
"""Last parts of names of counts that no output depends on: of batch norm, and of AveragedModel and the profiler thop.

They may be missing, as the first is from old checkpoints.
"""

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of numbers that stand for themselves: others come with scales that lie elsewhere."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint: a ``torch.save`` file of tensors, or safetensors; averaged ones if it has both.

    Raises PluginError if the file is missing, damaged (a zip checkpoint is checked against its CRCs, which torch.load
    does not do), holds anything but tensors, or would give more bytes than it has.
    """
    return next(iter(_read(path).values()))


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """The sets of named tensors of a checkpoint, by their keys in it, in the order in which they are preferred."""
    loaded = _loaded(path)
    found = dict(_states(loaded))
    if not found:
        keys = ", ".join(map(shown, islice(loaded, 5))) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise PluginError(
            f"checkpoint '{path}': expected a state dict of named tensors; save network.state_dict(), not"
            f" {keys or 'nothing'}"
        )
    return {".".join(keys): _unwrapped(state) for keys, state in found.items()}


def _states(loaded: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    if not isinstance(loaded, Mapping) or not loaded:
        return
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
        yield keys, loaded
    elif len(keys) < 3:  # deeper than any training loop stores them
        for key in (*AVERAGED, *WEIGHTS):
            yield from _states(loaded.get(key), (*keys, key))


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] not in LEFT_OUT}
    while prefix := next((each for each in WRAPPERS if tensors and all(name.startswith(each) for name in tensors)), ""):
        tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _loaded(path: Path) -> Any:
    _check_file(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except PluginError:
        raise
    except pickle.UnpicklingError:
        raise PluginError(
            f"checkpoint '{path}': not a file of tensors alone, nothing was unpickled; save the network's state_dict()"
        ) from None
    except Exception as error:  # torch.load raises many types on bytes that are no checkpoint
        reason = (str(error) or type(error).__name__).split("\n", 1)[0][:120]
        raise PluginError(f"checkpoint '{path}': cannot be read ({reason}); fetch or train it again") from None


def _check_file(path: Path) -> None:
    """Raise PluginError unless a path is that of a regular file, and on what is often found in a checkpoint's place."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PluginError(f"checkpoint '{path}': must be a regular file; pass one with --ckpt-path")
        with path.open("rb") as file:
            start = file.read(200).lstrip().lower()
    except FileNotFoundError:
        raise PluginError(f"checkpoint '{path}': there is no such file; pass --ckpt-path") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise PluginError(f"checkpoint '{path}': cannot be read ({reason}); pass another --ckpt-path") from None
    if start.startswith(b"version https://git-lfs"):
        raise PluginError(f"checkpoint '{path}': a git-lfs pointer, not the weights themselves; run git lfs pull")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise PluginError(f"checkpoint '{path}': a web page, not weights; fetch it again from the page's own link")
    if not start:
        raise PluginError(f"checkpoint '{path}': cannot be read (it is empty); fetch or train it again")


def _check_archive(path: Path) -> None:
    """Raise PluginError if a zip checkpoint is damaged, or would give more bytes than it has.

    torch.save stores its members as they are: one that is compressed, or lies in the file twice, is not its work.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        compressed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
        if compressed or sum(member.file_size for member in members) > path.stat().st_size:
            what = f"its member {shown(compressed[0])} is compressed" if compressed else "its members overlap"
            raise PluginError(
                f"checkpoint '{path}': {what}, which torch.save never does; save the weights again with torch.save"
            )
        damaged = archive.testzip()
    if damaged:
        raise PluginError(f"checkpoint '{path}': damaged at its member '{damaged}'; fetch or train it again")


def unchecked(path: Path) -> str | None:
    """Why damage within the tensors of a checkpoint would not be noticed, None where it would."""
    if path.suffix == ".safetensors":
        return "safetensors files have no checksum"
    return None if zipfile.is_zipfile(path) else "torch.save files of before torch 1.6 have no checksum"


def load_checkpoint(network: nn.Module, path: Path) -> str:
    """Load ``path`` into ``network``; returns which of several sets of weights was taken, "" where there is one.

    The names may have one prefix before all of them that the network's do not have, or lack one. Raises PluginError
    that names the first keys that differ, and on weights that cannot be right.
    """
    check_weights(network)
    wanted = network.state_dict()
    states = {keys: _renamed(given, wanted) for keys, given in _read(path).items()}
    differences = {keys: _differences(given, wanted) for keys, given in states.items()}
    taken = next((keys for keys in states if not differences[keys]), next(iter(states)))
    if differences[taken]:
        first = "; ".join(islice(differences[taken], 3))
        raise PluginError(
            f"checkpoint '{path}': does not fit {type(network).__name__} ({len(differences[taken])} keys differ:"
            f" {first}); pass the network that it was trained with (--net)"
        )
    given = states[taken]
    for name, tensor in given.items():
        # A mask may be infinite, as it is in the fresh network.
        if not (torch.isfinite(tensor) | (tensor == wanted.get(name, tensor.new_zeros(())).to(tensor))).all():
            raise PluginError(f"checkpoint '{path}': '{name}' holds NaN or infinity; fetch or train it again")
    network.load_state_dict(given, strict=False)  # what differs was checked above
    others = ", ".join(f"'{keys}'" for keys in states if keys != taken)
    kind = "averaged weights" if set(taken.split(".")) & set(AVERAGED) else "weights"
    return f"{kind} '{taken}' taken, not {others}" if others else ""


def _differences(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    return [
        *(f"'{name}' is missing" for name in wanted if name not in given and not _is_beside(name)),
        *(f"'{name}' is not in the network" for name in given if name not in wanted),
        *(f"'{name}' {reason}" for name in wanted if name in given and (reason := _misfit(given[name], wanted[name]))),
    ]


def _misfit(given: Tensor, wanted: Tensor) -> str:
    """Why a tensor cannot be copied into another without a loss; "" where it can."""
    if given.is_nested or given.is_meta or given.layout != torch.strided:
        kind = "nested" if given.is_nested else "without numbers (meta)" if given.is_meta else str(given.layout)
        return f"is {kind}, not a plain tensor"
    if given.shape != wanted.shape:
        return f"is {tuple(given.shape)}, the network has {tuple(wanted.shape)}"
    whole = not given.is_floating_point() and not given.is_complex() and not given.is_quantized
    if given.dtype == wanted.dtype or (given.dtype in PLAIN and wanted.dtype in PLAIN):
        return ""
    if not wanted.is_floating_point() and (whole or (given.dtype in PLAIN and torch.equal(given, given.round()))):
        return ""  # counts that were averaged, say
    return f"is {given.dtype}, the network has {wanted.dtype}"  # it would be cast, quietly


def _renamed(given: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under the network's names, where one prefix before all names of either side makes them the same.

    ``_orig_mod.``, of torch.compile, does not count wherever it stands. Where nothing does, names stay as they are.
    """
    tensors = {_plain(name): tensor for name, tensor in given.items()}
    names = {_plain(name): name for name in wanted}
    if len(tensors) != len(given):
        return dict(given)
    ours, theirs = ({name for name in each if not _is_beside(name)} for each in (names, tensors))
    more, less = _prefix(theirs, ours), _prefix(ours, theirs)
    renamed = {less + name.removeprefix(more): tensor for name, tensor in tensors.items()}
    return {names.get(name, name): tensor for name, tensor in renamed.items()}


def _prefix(longer: Collection[str], shorter: Collection[str]) -> str:
    """What stands before every one of the longer names; "" where they are not the shorter ones with a prefix."""
    first = min(longer, default="")  # a prefix leaves the order as it is
    prefix = first.removesuffix(min(shorter, default=""))
    return prefix if prefix.endswith(".") and {prefix + name for name in shorter} == set(longer) else ""


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _is_beside(name: str) -> bool:
    return name.rpartition(".")[2] in BESIDE


def find_checkpoints(path: Path) -> dict[str, Path]:
    """Checkpoints by seed: a file alone is ``{"": file}``; a directory gives its ``s*/best.ckpt``, OpenOOD's layout.

    Raises PluginError if there is none.
    """
    if path.is_file():
        return {"": path}
    found = {file.parent.name: file for file in path.glob("s*/best.ckpt") if file.parent.name[1:].isdecimal()}
    if not found:
        raise PluginError(
            f"checkpoints '{path}': expected a checkpoint file, or a directory with s0/best.ckpt, s1/best.ckpt ...;"
            " pass --ckpt-path"
        )
    return dict(sorted(found.items(), key=lambda item: int(item[0][1:])))
