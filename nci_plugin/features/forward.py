"""The one pass: batches of images in; features, logits and the outputs of a network's stages out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.benchmarks.samples import images_and_labels
from nci_plugin.checks import PluginError, check_finite
from nci_plugin.features.options import AMP
from nci_plugin.features.split import Chunk
from nci_plugin.networks.calling import alone, device_of, without_autocast
from nci_plugin.networks.cut import COARSE_STEPS, SAME_FEATURES, Cut
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.linear import check_weights
from nci_plugin.networks.stages import StageFeatures
from nci_plugin.rows import check_float_images, id_labels


@contextmanager
def prepared(
    network: nn.Module | LinearHead, device: torch.device | None = None, channels_last: bool = False
) -> Iterator[torch.device]:
    """The network on ``device`` in eval mode, without gradients; its mode and device are put back at the end.

    Yields the device; where ``device`` is None that is the network's own. An autocast of the caller's is off meanwhile,
    and another thread that would pass the network waits (see `alone`). With ``channels_last`` the weights of
    convolutions have, on a GPU, the layout that its kernels are fastest in. Raises PluginError on weights that hold no
    numbers.
    """
    if isinstance(network, LinearHead):
        with torch.no_grad(), without_autocast():
            yield device or torch.device("cpu")
        return
    with torch.no_grad(), without_autocast(), alone(network):
        check_weights(network)
        training = {module: getattr(module, "training", False) for module in network.modules()}  # not of frozen ones
        home = device_of(network)
        device = device or home
        try:
            try:
                network.to(device).eval()
            except NotImplementedError as error:  # of a program of torch.export
                raise PluginError(
                    f"network {type(network).__name__}: cannot be put in eval mode ({error}); pass the network that it"
                    " was exported from"
                ) from None
            with in_channels_last(network) if channels_last and device.type == "cuda" else nullcontext():
                yield device
        finally:
            network.to(home)
            for module, mode in training.items():
                module.training = mode


@contextmanager
def in_channels_last(network: nn.Module) -> Iterator[None]:
    """The weights of convolutions in this layout; afterwards each in the one that it had."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        return chain(network.named_parameters(), network.named_buffers())

    last, contiguous = torch.channels_last, torch.contiguous_format
    before = {name for name, each in tensors() if each.is_contiguous(memory_format=last) and not each.is_contiguous()}
    try:
        network.to(memory_format=last)  # type: ignore[call-overload]  # its stubs lack this one
        yield
    finally:
        network.to(memory_format=contiguous)  # type: ignore[call-overload]
        for name, tensor in tensors():
            if name in before:
                tensor.data = tensor.data.contiguous(memory_format=last)


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
    """A network cut at its head, in eval mode on its device, as `prepared` leaves it.

    ``amp`` is the precision of the pass, a key of AMP; the head is looked for in float32 whatever it is. ``probe`` are
    the images on the first of which it was found.
    """

    probe: Tensor

    def __init__(self, cut: Cut, device: torch.device, amp: str = "none") -> None:
        self.cut, self.device, self.dtype = cut, device, AMP[amp]
        weights = (each for each in cut.network.parameters() if each.ndim == 4 and not each.is_contiguous())
        self._layout = torch.preserve_format
        if device.type == "cuda" and any(each.is_contiguous(memory_format=torch.channels_last) for each in weights):
            self._layout = torch.channels_last

    @classmethod
    def of(
        cls, network: nn.Module, device: torch.device, images: Tensor, head: str | None = None, amp: str = "none"
    ) -> Forward:
        """Find the head on the first images of a batch (n, 3, H, W), or check the one that is named: see `Cut.of`."""
        images = images.to(device)
        forward = cls(Cut.of(network, images, head), device, amp)
        forward.probe = images
        return forward

    @classmethod
    def of_loader(
        cls, network: nn.Module, device: torch.device, loader: Iterable[Any], what: str, head: str | None = None
    ) -> tuple[Forward, Iterator[Passed]]:
        """As `of`, on the first batch of a loader of ID images, and what all its batches pass as (see `over_loader`).

        Raises PluginError on a loader that gives no batch.
        """
        batches = iter(loader)
        first = next(batches, None)
        if first is None:
            raise PluginError(f"{what} gave no batch; it needs at least one")
        forward = cls.of(network, device, images_and_labels(what, first)[0], head)
        return forward, forward.over_loader(chain([first], batches), what)

    def over_loader(self, loader: Iterable[Any], what: str) -> Iterator[Passed]:
        """As `over`, batches of ID images as a loader gives them.

        Raises PluginError as `images_and_labels` and `id_labels` do; it begins with ``what``.
        """

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            row = 0
            for batch in loader:
                images, labels = images_and_labels(what, batch)
                yield images, id_labels(what, labels, len(images), self.head.num_classes, row)
                row += len(images)

        return self.over(batches(), what)

    @cached_property
    def head(self) -> LinearHead:
        return self.cut.head

    @cached_property
    def _with_stages(self) -> StageFeatures:
        return StageFeatures(self.cut.network, self.cut)

    def stage_widths(self) -> dict[str, int]:
        """The stages that have an output which can be pooled, in the order in which they run, and its width."""
        return {name: output.shape[1] for name, output in self(self.probe, stages=True)[2].items()}

    def gives(self, images: Tensor, features: Tensor, logits: Tensor) -> bool:
        """Whether images have, but for rounding, these features and logits, which may be of more images."""
        tolerance = SAME_FEATURES if self.dtype is None else COARSE_STEPS * torch.finfo(self.dtype).eps
        pairs = zip((each.cpu() for each in self(images)[:2]), (features, logits))
        return all(bool((now - then[: len(now)]).abs().max() <= tolerance * now.abs().max()) for now, then in pairs)

    def __call__(
        self, images: Tensor, stages: bool = False, float32: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Features (n, P), logits (n, K) and, if asked for, stages' outputs (n, P_s), in float32 on the device.

        With ``float32`` the arithmetic is so too, whatever the precision of the pass.
        """
        layout = self._layout if images.ndim == 4 else torch.preserve_format
        images = images.to(self.device, non_blocking=self.device.type == "cuda", memory_format=layout)
        coarse = self.dtype is not None and not float32
        with torch.autocast(self.device.type, self.dtype) if coarse else nullcontext():
            if not stages:
                return *self.cut(images), {}
            return self._with_stages(images)

    def over(
        self, batches: Iterable[tuple[Tensor, Tensor]], what: str, starts: Iterable[int] = (), stages: bool = False
    ) -> Iterator[Passed]:
        """Pass batches (images, labels (n,)). A GPU computes the next one while its caller works on the last.

        Raises PluginError, which begins with ``what``, on images of whole numbers, and on NaN and infinity, naming the
        row: batches begin at the rows ``starts``, else at 0 and each where the one before it ended.
        """
        ahead = 1 if self.device.type == "cuda" else 0
        under_way: deque[tuple[Passed, Any, int]] = deque()
        begins, row = iter(starts), 0
        for images, labels in batches:
            check_float_images(what, images)
            row = next(begins, row)
            under_way.append((*self._begun(images, labels, stages), row))
            row += len(images)
            if len(under_way) > ahead:
                yield _arrived(what, *under_way.popleft())
        for each in under_way:
            yield _arrived(what, *each)

    def _begun(self, images: Tensor, labels: Tensor, stages: bool) -> tuple[Passed, Any]:
        """What will be there once the event has come: from a GPU the copies, into pinned memory, are not waited for."""
        on_gpu = self.device.type == "cuda"
        features, logits, outputs = self(images, stages)
        of_stages = {name: output.to("cpu", non_blocking=on_gpu) for name, output in outputs.items()}
        features, logits = (each.to("cpu", non_blocking=on_gpu) for each in (features, logits))
        passed = Passed(Chunk(features, logits, labels.long()), of_stages)
        return passed, torch.cuda.current_stream(self.device).record_event() if on_gpu else None


def _arrived(what: str, passed: Passed, event: Any, row: int) -> Passed:
    if event is not None:
        event.synchronize()
    rows = {"features": passed.chunk.features, "logits": passed.chunk.logits}
    rows.update({f"features of {stage}": output for stage, output in passed.stages.items()})
    for name, values in rows.items():
        check_finite(f"{what} {name}", values, first_index=row)
    return passed
