"""Small trainings of a classifier: SGD with momentum or Adam, one cycle (Smith & Topin 2019) or a cosine."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.files import write_atomically
from nci_plugin.progress import progress
from nci_plugin.rows import id_labels
from nci_plugin.training.losses import CE_THEN_MSE, LOSSES, NAMES

SHIFT = 4
"""Largest random shift in pixels, the padding of the usual CIFAR augmentation."""

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("one_cycle", "cosine")

CE_SHARE = 0.4
"""Share of the epochs of ``ce_then_mse`` that are cross-entropy's: 200 of 500 in arXiv 2604.00230."""


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises PluginError on a value that cannot be used.

    ``learning_rate`` is the peak of the schedule; ``augment`` shifts each image by up to 4 pixels in both directions;
    ``momentum`` is that of SGD. Each phase of the loss ``ce_then_mse`` has an optimizer and a schedule of its own.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = True
    optimizer: str = "sgd"
    schedule: str = "one_cycle"
    loss: str = "ce"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_number(f"recipe: {name}", getattr(self, name), above=0, whole=True)
        check_number("recipe: learning_rate", self.learning_rate, above=0)
        for name, end in (("momentum", 1.0), ("weight_decay", math.inf)):
            check_number(f"recipe: {name}", getattr(self, name))
            if not 0 <= getattr(self, name) < end:
                bound = "at least 0" if end == math.inf else f"at least 0 and below {end:g}"
                raise PluginError(f"recipe: {name}: must be {bound}, got {getattr(self, name)!r}; correct it")
        check_choice("recipe: augment", self.augment, (True, False))
        check_choice("recipe: optimizer", self.optimizer, OPTIMIZERS)
        check_choice("recipe: schedule", self.schedule, SCHEDULES)
        check_choice("recipe: loss", self.loss, NAMES)
        if self.loss == CE_THEN_MSE and self.epochs < 2:
            raise PluginError(f"recipe: epochs: must be at least 2 for the loss {CE_THEN_MSE}, got {self.epochs}")

    @property
    def phases(self) -> list[tuple[str, int]]:
        """Each phase's loss, a key of LOSSES, and its number of epochs."""
        if self.loss != CE_THEN_MSE:
            return [(self.loss, self.epochs)]
        first = max(1, round(CE_SHARE * self.epochs))
        return [("ce", first), ("mse", self.epochs - first)]

    def make_optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, self.learning_rate, self.momentum, weight_decay=self.weight_decay)

    def make_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, steps)
        return OneCycleLR(optimizer, self.learning_rate, total_steps=steps, cycle_momentum=False)


Entry = dict[str, Any]
EpochCallback = Callable[[nn.Module, Entry], Any]


def train(
    factory: Callable[[], nn.Module],
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    seed: int,
    device: torch.device | str = "cpu",
    on_epoch: EpochCallback | None = None,
    progress_label: str = "train",
) -> tuple[nn.Module, list[Entry]]:
    """Train the network of ``factory()``; returns it in eval mode on ``device``, and its history.

    ``images`` (n, 3, H, W) are normalised floats, ``labels`` (n,) whole numbers from 0. The history has one entry an
    epoch: ``epoch`` from 1, its ``phase`` (the loss's name), and the means over its training batches of ``loss`` (see
    LOSSES for its unit) and ``accuracy`` (percent). ``on_epoch(network, entry)`` is called after each epoch with the
    network in eval mode; it may change weights in place. Parameters that need no gradient stay as they are.

    The same seed gives the same network on the same machine; PyTorch's global random state is left as it was.
    Raises PluginError if images and labels do not fit together or the loss is no longer finite.
    """
    if images.ndim != 4 or not len(images) or labels.shape != images.shape[:1]:
        raise PluginError(
            f"training: expected images (n, 3, H, W) and labels (n,) with n >= 1, got {tuple(images.shape)} and"
            f" {tuple(labels.shape)}; pass one label an image"
        )
    device = torch.device(device)
    with _seeded(seed, device):
        # Convolutions of few channels are a third faster with the channels last, on CPUs too.
        network = factory().to(device).to(memory_format=torch.channels_last)
        images = images.to(device, memory_format=torch.channels_last)
        with torch.no_grad():
            num_classes = network.eval()(images[:1]).shape[1]
        labels = id_labels("training", labels, len(images), num_classes).to(device)
        history = _fit(network, images, labels, recipe, seed, on_epoch, progress_label)
        return network.to(memory_format=torch.contiguous_format), history


def save_checkpoint(network: nn.Module, path: Path) -> None:
    """Save the network's state dict, on the CPU, as OpenOOD does; ``path`` holds a whole file or the one before.

    Raises PluginError if it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, buffer)
    write_atomically(Path(path), buffer.getvalue())


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators of the CPU and of ``device``, and put both back at the end."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        # torch.manual_seed would seed every other device too, and their states are not kept.
        torch.default_generator.manual_seed(seed)
        if not on_cuda:
            yield
            return
        with torch.cuda.device(device), torch.backends.cudnn.flags(enabled=True, deterministic=True):
            torch.cuda.manual_seed(seed)
            yield


def _fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    seed: int,
    on_epoch: EpochCallback | None,
    progress_label: str,
) -> list[Entry]:
    # Of its own, so that a callback or dropout cannot change which images are drawn.
    generator = torch.Generator().manual_seed(seed)
    black = images.amin(dim=(0, 2, 3)).view(1, -1, 1, 1)
    batches = math.ceil(len(images) / recipe.batch_size)
    history: list[Entry] = []
    with progress(progress_label, "batch", recipe.epochs * batches) as bar:
        for phase, epochs in recipe.phases:
            loss_of = LOSSES[phase]
            optimizer = recipe.make_optimizer(each for each in network.parameters() if each.requires_grad)
            schedule = recipe.make_schedule(optimizer, epochs * batches)
            for _ in range(epochs):
                network.train()
                loss_sum, right = torch.zeros((), device=images.device), torch.zeros((), device=images.device)
                order = torch.randperm(len(images), generator=generator).to(images.device)
                for indices in order.split(recipe.batch_size):
                    batch, targets = images[indices], labels[indices]
                    if recipe.augment:
                        batch = _shift(batch, black, generator)
                    logits = network(batch)
                    loss = loss_of(logits, targets)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    loss_sum += loss.detach() * len(indices)
                    right += (logits.argmax(dim=1) == targets).sum()
                    bar.update()
                network.eval()
                entry: Entry = {
                    "epoch": len(history) + 1,
                    "phase": phase,
                    "loss": loss_sum.item() / len(images),
                    "accuracy": 100 * right.item() / len(images),
                }
                if not math.isfinite(entry["loss"]):
                    raise PluginError(
                        f"training: the loss must stay finite, got {entry['loss']} in epoch {entry['epoch']};"
                        f" lower the recipe's learning_rate ({recipe.learning_rate:g}) or check the images"
                    )
                history.append(entry)
                bar.set_postfix_str(f"loss={entry['loss']:.3f}, accuracy={entry['accuracy']:.1f} %")
                if on_epoch is not None:
                    on_epoch(network, entry)
                    network.eval()
    return history


def _shift(images: Tensor, black: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image (n, C, H, W) by up to `SHIFT` pixels, filled with each channel's ``black`` (1, C, 1, 1)."""
    count, _, height, width = images.shape
    padded = (F.pad(images - black, (SHIFT,) * 4) + black).permute(0, 2, 3, 1)
    top, left = torch.randint(2 * SHIFT + 1, (2, count, 1), generator=generator).to(images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
