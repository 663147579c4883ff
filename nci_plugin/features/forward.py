"""The network on its device: batches of images in; features, logits and the outputs of its stages out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.features.options import AMP
from nci_plugin.features.split import Chunk
from nci_plugin.networks.calling import without_autocast
from nci_plugin.networks.cut import COARSE_STEPS, SAME_FEATURES, Cut
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.linear import check_weights
from nci_plugin.networks.stages import StageFeatures

REUSE_TOLERANCE = SAME_FEATURES
"""Largest relative difference between stored features and those of a recomputed batch."""


@contextmanager
def prepared(network: nn.Module | LinearHead, device: torch.device) -> Iterator[None]:
    """The network on ``device`` in eval mode, without gradients; its mode and device are put back at the end.

    An autocast of the caller's is off meanwhile. Raises PluginError on weights that hold no numbers.
    """
    if isinstance(network, LinearHead):
        with torch.no_grad(), without_autocast():
            yield
        return
    check_weights(network)
    training = {module: module.training for module in network.modules()}
    home = next((tensor.device for tensor in network.parameters()), device)
    try:
        network.to(device).eval()
        with torch.no_grad(), without_autocast():
            yield
    finally:
        network.to(home)
        for module, mode in training.items():
            module.training = mode


@contextmanager
def channels_last(network: nn.Module | LinearHead, device: torch.device) -> Iterator[None]:
    """On a GPU, the weights of convolutions in the layout that its kernels are fastest in; elsewhere as they are."""
    if isinstance(network, LinearHead) or device.type != "cuda":
        yield
        return
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs leave this one out
    try:
        yield
    finally:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@dataclass(frozen=True, eq=False)
class Passed:
    """What the pass gives of some rows, on the CPU; ``stages`` are the pooled outputs (n, P_s), where asked for."""

    chunk: Chunk
    stages: Mapping[str, Tensor]

    @classmethod
    def joined(cls, parts: list[Passed]) -> Passed:
        rows = {name: torch.cat([getattr(part.chunk, name) for part in parts]) for name in vars(parts[0].chunk)}
        return cls(Chunk(**rows), {name: torch.cat([part.stages[name] for part in parts]) for name in parts[0].stages})


class Forward:
    """A network cut at its head. It is in eval mode on its device, as `prepared` leaves it.

    ``probe`` are a few images (n, 3, H, W) on which the head is found. Raises PluginError as `Cut.of` does.
    """

    def __init__(self, network: nn.Module, device: torch.device, probe: Tensor, head: str | None, amp: str) -> None:
        self.device, self.dtype = device, AMP[amp]
        self.probe = probe.to(device)
        self._cut = Cut.of(network, self.probe, head)  # in float32: the head must be found again to a tolerance
        self._with_stages = StageFeatures(network, self._cut)
        self.head = self._cut.head

    @property
    def tolerance(self) -> float:
        """Largest difference to stored features, relative to the largest feature."""
        return REUSE_TOLERANCE if self.dtype is None else COARSE_STEPS * torch.finfo(self.dtype).eps

    def stage_widths(self) -> dict[str, int]:
        """The stages that have an output which can be pooled, in the order in which they run, and its width."""
        return {name: output.shape[1] for name, output in self(self.probe, stages=True)[2].items()}

    def __call__(
        self, images: Tensor, stages: bool = False, float32: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Features (n, P), logits (n, K) and, if asked for, stages' outputs (n, P_s), in float32 on the device.

        With ``float32`` the arithmetic is so too, whatever the precision of the pass.
        """
        on_gpu = self.device.type == "cuda"
        layout = torch.channels_last if on_gpu and images.ndim == 4 else torch.preserve_format
        images = images.to(self.device, non_blocking=on_gpu, memory_format=layout)
        coarse = self.dtype is not None and not float32
        with torch.autocast(self.device.type, self.dtype) if coarse else nullcontext():
            return self._with_stages(images) if stages else (*self._cut(images), {})

    def over(self, batches: Iterable[tuple[Tensor, Tensor]], stages: bool = False) -> Iterator[Passed]:
        """Pass batches (images, labels (n,)). A GPU computes the next one while its caller works on the last."""
        ahead = 1 if self.device.type == "cuda" else 0
        under_way: deque[tuple[Passed, Any]] = deque()
        for images, labels in batches:
            under_way.append(self._begun(images, labels, stages))
            if len(under_way) > ahead:
                yield _arrived(*under_way.popleft())
        for each in under_way:
            yield _arrived(*each)

    def _begun(self, images: Tensor, labels: Tensor, stages: bool) -> tuple[Passed, Any]:
        """What will be there once the event has come: from a GPU the copies, into pinned memory, are not waited for."""
        on_gpu = self.device.type == "cuda"
        features, logits, outputs = self(images, stages)

        def to_cpu(tensor: Tensor) -> Tensor:
            return tensor.to("cpu", non_blocking=on_gpu)

        passed = Passed(
            Chunk(to_cpu(features), to_cpu(logits), labels.long()),
            {name: to_cpu(output) for name, output in outputs.items()},
        )
        return passed, torch.cuda.current_stream(self.device).record_event() if on_gpu else None


def _arrived(passed: Passed, event: Any) -> Passed:
    if event is not None:
        event.synchronize()
    return passed
