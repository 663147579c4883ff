"""Checkpoints, read without ever unpickling code."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError

CONTAINER_KEYS = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training loops store the weights beside other things."""


BATCH_COUNTER = "num_batches_tracked"
"""Buffer of a batch norm that is not used in evaluation and that old checkpoints lack."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint: a ``torch.save`` file of tensors, or safetensors.

    Raises PluginError if the file is missing, damaged (a zip checkpoint is checked against its CRCs, which torch.load
    does not do) or holds anything but tensors.
    """
    if not path.is_file():
        raise PluginError(f"checkpoint '{path}': there is no such file; pass --ckpt-path")
    try:
        if path.suffix == ".safetensors":
            return _tensors(path, safetensors.torch.load_file(path))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise PluginError(f"checkpoint '{path}': damaged at its member '{damaged}'; fetch or train it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except PluginError:
        raise
    except pickle.UnpicklingError:
        raise PluginError(
            f"checkpoint '{path}': not a file of tensors alone, nothing was unpickled; save the network's state_dict()"
        ) from None
    except Exception as error:  # torch.load raises many types on bytes that are no checkpoint
        reason = (str(error) or type(error).__name__).split("\n", 1)[0][:120]
        raise PluginError(f"checkpoint '{path}': cannot be read ({reason}); fetch or train it again") from None
    return _tensors(path, loaded)


def unchecked(path: Path) -> str | None:
    """Why damage within the tensors of a checkpoint would not be noticed, None where it would."""
    if path.suffix == ".safetensors":
        return "safetensors files have no checksum"
    return None if zipfile.is_zipfile(path) else "torch.save files of before torch 1.6 have no checksum"


def _tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    for key in CONTAINER_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    named = isinstance(loaded, Mapping) and loaded and all(isinstance(name, str) for name in loaded)
    if not named or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise PluginError(f"checkpoint '{path}': expected a state dict of named tensors; save network.state_dict()")
    prefix = "module."  # of torch.nn.DataParallel
    wrapped = all(name.startswith(prefix) for name in loaded)
    return {name[len(prefix) :] if wrapped else name: tensor for name, tensor in loaded.items()}


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Load ``path`` into ``network``; raises PluginError that names the first keys that differ."""
    given, wanted = read_state_dict(path), network.state_dict()
    differences = [
        *(f"'{name}' is missing" for name in wanted if name not in given and not name.endswith(BATCH_COUNTER)),
        *(f"'{name}' is not in the network" for name in given if name not in wanted),
        *(
            f"'{name}' is {tuple(given[name].shape)}, the network has {tuple(wanted[name].shape)}"
            for name in wanted
            if name in given and given[name].shape != wanted[name].shape
        ),
        *(  # complex or quantised numbers would be cast, quietly
            f"'{name}' is {given[name].dtype}, the network has {wanted[name].dtype}"
            for name in wanted
            if name in given and wanted[name].is_floating_point() and not given[name].is_floating_point()
        ),
    ]
    if differences:
        first = "; ".join(islice(differences, 3))
        raise PluginError(
            f"checkpoint '{path}': does not fit {type(network).__name__} ({len(differences)} keys differ: {first});"
            " pass the network that it was trained with (--net)"
        )
    not_finite = [name for name, tensor in given.items() if not torch.isfinite(tensor).all()]
    if not_finite:
        raise PluginError(f"checkpoint '{path}': '{not_finite[0]}' holds NaN or infinity; fetch or train it again")
    network.load_state_dict(given, strict=False)  # what differs was checked above


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
