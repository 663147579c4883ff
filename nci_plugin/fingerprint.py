"""Content hashes: what features were made from."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import TRAIN, Features
from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.feature_bank import FeatureBank
from nci_plugin.files import digest
from nci_plugin.head import LinearHead

FORMAT_VERSION = 3
"""Changes when stored features of an older version must not be read any more."""


def network_digest(network: nn.Module, device: torch.device, batch_size: int, amp: str = "none") -> str:
    """Hash of what the features of an image depend on beside the image: weights, code, arithmetic, batch size.

    ``amp`` is the precision of torch.autocast, ``none`` without it.
    """
    arithmetic = [
        str(FORMAT_VERSION),
        str(batch_size),
        device.type,
        "float32" if amp == "none" else amp,
        torch.__version__,
        torchvision.__version__,
    ]
    return digest(*arithmetic, repr(network), *_sources(network), weights_digest(network))


def weights_digest(network: nn.Module | LinearHead) -> str:
    """Hash of the names, types, shapes and bytes of all weights and buffers."""
    if isinstance(network, LinearHead):
        tensors = {"weight": network.weight, "bias": network.bias}
    else:
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    parts: list[bytes | str] = []
    for name, tensor in tensors.items():
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), _bytes(tensor)]
    return digest(*parts)


def split_digest(splits: Mapping[str, Any]) -> str:
    """Hash of what the splits hold. A Dataset or a list of images cannot be known again: it counts as new each time."""
    parts: list[bytes | str] = []
    for name, split in splits.items():
        parts.append(name)
        if isinstance(split, ImageFiles):
            parts.append(split.content)
        elif isinstance(split, Features):
            parts += [_bytes(t) for t in (split.features, split.labels, split.logits) if t is not None]
        else:
            parts.append(uuid.uuid4().hex)
    return digest(*parts)


def features_digest(bank: FeatureBank) -> str:
    """Hash of the features of all splits but the training split, which may not have been stored."""
    parts: list[bytes | str] = []
    for name in sorted(set(bank.splits) - {TRAIN}):
        parts += [name, *(_bytes(shard.features) for shard in bank.splits[name].shards)]
    return digest(*parts)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _sources(network: nn.Module) -> list[bytes | str]:
    """Names of the classes that the network and its bases are made of, and the files that hold their code.

    The versions of torch and torchvision stand for their files. Code of an interactive session has no file: there the
    recomputed first batch must do.
    """
    classes = {base for module in network.modules() for base in type(module).__mro__}
    own = [cls for cls in classes if cls.__module__.split(".")[0] not in ("builtins", "torch", "torchvision")]
    parts: list[bytes | str] = []
    for cls in sorted(own, key=lambda cls: (cls.__module__, cls.__qualname__)):
        parts.append(f"{cls.__module__}.{cls.__qualname__}")
        with suppress(OSError, TypeError):
            parts.append(Path(inspect.getsourcefile(cls) or "").read_bytes())
    return parts
