"""How the pass is run: device, precision, batch size, loader processes, and where features are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.features.processes import ALONE, Processes
from nci_plugin.machine import usable_cores

AMP: dict[str, torch.dtype | None] = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions of torch.autocast by name; ``none`` leaves the network's own, float32."""


@dataclass(frozen=True)
class ExtractionOptions:
    """How the pass is run; but for ``amp``, none of it changes a number beyond rounding.

    ``tell`` is called with a line about what is going to be stored, once the network was found to fit, and ``begin``
    then, before the pass, which it may refuse. ``processes`` share the pass.
    ``amp`` is a name of AMP; features and logits are stored as float32 whatever it is. Where ``image_shape`` is given a
    batch of images of another shape is refused.
    """

    device: str = "auto"
    batch_size: int = 200
    workers: int = 0
    head: str | None = None
    store: Path | None = None
    progress: bool = True
    tell: Callable[[str], None] | None = None
    processes: Processes = ALONE
    amp: str = "none"
    begin: Callable[[], None] | None = None
    image_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_number("batch_size", self.batch_size, above=0, whole=True)
        check_number("workers", self.workers, least=0, whole=True)
        check_choice("amp", self.amp, AMP)


def resolve_device(name: str | torch.device) -> torch.device:
    """``auto`` = cuda, else mps, else cpu. Raises PluginError if the device is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in available:
        raise PluginError(f"device '{name}': must be auto, cuda, cuda:N, mps or cpu")
    if not available[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise PluginError(f"device '{name}': not available here; use --device auto")
    return device


def check_amp(amp: str, device: torch.device) -> None:
    """Raise PluginError unless the device can pass images in that precision."""
    allowed = {"cuda": list(AMP), "cpu": ["none", "bf16"]}.get(device.type, ["none"])
    if amp not in allowed:
        raise PluginError(
            f"amp '{amp}': must be {' or '.join(allowed)} on {device.type}; choose one, or another --device"
        )


def default_workers(processes: int = 1) -> int:
    """Loader processes for each of so many, by the cores at hand: none on one or two, where they would take time from
    the network."""
    cores = usable_cores() // processes
    return 0 if cores <= 2 else min(8, cores // 2)
