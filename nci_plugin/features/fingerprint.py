"""Content hashes: what features were made from."""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import TRAIN
from nci_plugin.features.bank import FeatureBank
from nci_plugin.files import digest
from nci_plugin.networks.head import LinearHead

FORMAT_VERSION = 3
"""Changes when stored features of an older version must not be read any more."""


def network_digest(network: nn.Module, device: torch.device, batch_size: int, amp: str = "none") -> str:
    """Hash of what the features of an image depend on beside the image: weights, code, arithmetic, batch size.

    ``amp`` is the precision of torch.autocast, ``none`` without it.
    """
    import torchvision  # 1.5 s

    arithmetic = [
        str(FORMAT_VERSION),
        str(batch_size),
        device.type,
        "float32" if amp == "none" else amp,
        torch.__version__,
        torchvision.__version__,
    ]
    return digest(*arithmetic, structure(network), *_sources(network), weights_digest(network))


def structure(network: nn.Module) -> str:
    """The ``repr`` of a network, without the addresses in the texts of functions: they are others in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(network))


def weights_digest(network: nn.Module | LinearHead) -> str:
    """Hash of the names, types, shapes and bytes of all weights and buffers."""
    if isinstance(network, LinearHead):
        tensors = {"weight": network.weight, "bias": network.bias}
    else:
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    parts: list[bytes | str] = []
    for name, tensor in tensors.items():
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), tensor_bytes(tensor)]
    if isinstance(network, nn.Module):
        parts += _packed(network)
    return digest(*parts)


def _packed(network: nn.Module) -> list[bytes | str]:
    """The weights of quantised layers, which are neither parameters nor buffers."""
    parts: list[bytes | str] = []
    for name, value in network.state_dict().items():
        for index, each in enumerate(value if isinstance(value, (tuple, list)) else [value]):
            if isinstance(each, Tensor) and (each is not value or each.is_quantized):
                numbers = each.dequantize() if each.is_quantized else each
                parts += [f"{name}/{index}", str(each.dtype), tensor_bytes(numbers)]
    return parts


def features_digest(bank: FeatureBank) -> str:
    """Hash of the features of all splits but the training split, which may not have been stored."""
    parts: list[bytes | str] = []
    for name in sorted(set(bank.splits) - {TRAIN}):
        parts += [name, *(tensor_bytes(shard.features) for shard in bank.splits[name].shards)]
    return digest(*parts)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's elements, in their order."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def own_classes(network: nn.Module) -> list[type]:
    """The classes that a network and its bases are made of, without torch's, torchvision's and the built-in ones."""
    classes = {base for module in network.modules() for base in type(module).__mro__}
    own = [cls for cls in classes if cls.__module__.split(".")[0] not in ("builtins", "torch", "torchvision")]
    return sorted(own, key=lambda cls: (cls.__module__, cls.__qualname__))


def _sources(network: nn.Module) -> list[bytes | str]:
    """Names of the network's own classes, and the files that hold their code.

    The versions of torch and torchvision stand for their files. Code of an interactive session has no file: there the
    recomputed first batch must do.
    """
    parts: list[bytes | str] = []
    for cls in own_classes(network):
        parts.append(f"{cls.__module__}.{cls.__qualname__}")
        with suppress(OSError, TypeError):
            parts.append(Path(inspect.getsourcefile(cls) or "").read_bytes())
    return parts
