"""`CollapseMonitor`: neural collapse, logged from inside a training loop.

>>> monitor = CollapseMonitor(network, loader, every=5, output="run/trajectory.jsonl")   # doctest: +SKIP
>>> for epoch in range(1, 101):                                                          # doctest: +SKIP
...     train_one_epoch()
...     monitor.step(epoch)
...     if monitor.settled("nc1_quotient", tolerance=0.05, patience=3):
...         break
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from nci_plugin.benchmarks.samples import images_and_labels
from nci_plugin.checks import PluginError, check_known, check_number
from nci_plugin.collapse.registry import EPOCHS, columns
from nci_plugin.dynamics.epoch import EpochRecord
from nci_plugin.dynamics.measure import collapse_numbers, network_numbers, training_numbers
from nci_plugin.dynamics.trajectory import Condition, Trajectory, TrajectoryFile
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.collector import Collector, training_statistics
from nci_plugin.features.forward import Forward, prepared
from nci_plugin.networks.calling import random_states_kept, without_replicas
from nci_plugin.rows import whole_labels
from nci_plugin.training.losses import LOSSES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FEATURE_BYTES = 2**30
"""NC4 needs the features again once their means are known: up to so many bytes of them are held, beyond it is None."""


class CollapseMonitor:
    """Measures collapse on the training images of ``loader`` after every ``every``-th epoch, in one pass.

    Args:
        network: any classifier that ends in a linear layer, alone or in DataParallel or DistributedDataParallel.
        loader: batches (images (n, 3, H, W), labels (n,)), or dictionaries of both, as OpenOOD's. They are measured as
            they come: give the training images with the test preprocessing, without augmentation.
        every: epochs between two records, counted from epoch 0.
        samples_per_class: so many images of each class, the same at every step, instead of all; the loader must be a
            DataLoader of a dataset with a length. Its labels are read once, which decodes its images.
        output: file to log to; a run that was interrupted goes on in it.
        run, conditions: of the trajectory.
        loss: a key of LOSSES, of the logits in eval mode.
        head: name of the last linear layer, where it is not found by itself.

    The network's mode, gradients, buffers and every global random state are left as they were. A record names its
    sample in ``train_from``. Raises PluginError on input that cannot be used.
    """

    def __init__(
        self,
        network: nn.Module,
        loader: Iterable[Any],
        every: int = 1,
        *,
        samples_per_class: int | None = None,
        output: str | Path | None = None,
        run: str = "run",
        conditions: Mapping[str, Condition] | None = None,
        loss: str = "ce",
        head: str | None = None,
    ) -> None:
        check_number("monitor: every", every, above=0, whole=True)
        if samples_per_class is not None:
            check_number("monitor: samples_per_class", samples_per_class, above=0, whole=True)
        check_known("loss", loss, LOSSES)
        inner = without_replicas(network)  # a pass of one process must not wait for the others
        self.network, self.every, self.loss, self.head = inner, every, loss, head
        self._loader, self.samples_per_class = loader, samples_per_class
        self._log = TrajectoryFile(None if output is None else Path(output), run, conditions or {})
        self._sampled = samples_per_class is None

    @property
    def trajectory(self) -> Trajectory:
        """What was measured, by increasing epoch, with what ``output`` held already."""
        return self._log.trajectory

    def step(self, epoch: int) -> EpochRecord | None:
        """Measure the network if the epoch's turn has come; returns the record, None if it has not."""
        check_number("monitor: epoch", epoch, least=0, whole=True)
        if epoch % self.every:
            return None
        with random_states_kept(), prepared(self.network) as device:
            if not self._sampled:
                self._loader, self._sampled = _class_balanced(self._loader, self.samples_per_class or 0), True
            record = self._measure(epoch, device)
        self._log.add(record)
        return record

    def settled(self, name: str, tolerance: float = 0.05, patience: int = 3) -> bool:
        """Whether a number has settled: its last ``patience`` + 1 records lie within ``tolerance`` of their mean.

        ``name`` is as in `Trajectory.series`; ``tolerance`` is relative, a share of the mean's absolute value. False
        while there are fewer records, or one of them has no value. Raises PluginError on a name that is not logged.
        """
        check_number("settled: tolerance", tolerance, least=0)
        check_number("settled: patience", patience, above=0, whole=True)
        if not self._log.records:
            return False
        last = self.trajectory.series(name)[-(patience + 1) :]
        if len(last) <= patience or not np.isfinite(last).all():
            return False
        return bool(np.abs(last - last.mean()).max() <= tolerance * abs(last.mean()))

    def to_frame(self) -> pd.DataFrame:
        """A row an epoch that was measured, as `Trajectory.to_frame`."""
        return self.trajectory.to_frame()

    def plot(self, names: Sequence[str] | None = None) -> Figure:
        """A panel a number along the epochs, of matplotlib; dashed is its value at exact collapse.

        ``names`` are as in `Trajectory.series`; without them the collapse metrics that have values. Raises PluginError
        on a name that is not logged, and while nothing is.
        """
        from nci_plugin.evaluation.drawn import DrawnFigure, draw_grid

        trajectory, metrics = self.trajectory, columns(EPOCHS)
        wanted = [name for name in metrics if trajectory.logs(name)] if names is None else list(names)
        if not wanted:
            raise PluginError("monitor: plot needs a number that has values, there is none; call step() first")
        series = {name: trajectory.series(name) for name in wanted}
        across = min(3, len(wanted))
        drawn = DrawnFigure(3.2 * across, 2.3 * -(-len(wanted) // across))
        panels = draw_grid(drawn, len(wanted), across, sharex=True)
        for axes, (name, values) in zip(panels, series.items()):
            axes.plot(trajectory.epochs, values, marker="o", markersize=3)
            ideal = metrics[name].ideal if name in metrics else None
            if isinstance(ideal, (int, float)):  # of every number of classes
                axes.axhline(ideal, color="0.4", linewidth=0.8, linestyle="--")
            axes.set_title(f"{metrics[name].symbol} ({name})" if name in metrics else name, fontsize="medium")
        for axes in panels[-across:]:
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
        return drawn

    def __repr__(self) -> str:
        epochs = sorted(self._log.records)
        measured = f"{len(epochs)} epochs measured, {epochs[0]} to {epochs[-1]}" if epochs else "nothing measured yet"
        return f"CollapseMonitor({type(self.network).__name__}, every={self.every}, {measured})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        table = self.to_frame().to_html(float_format="{:.4g}".format, na_rep="-") if self._log.records else ""
        return f"<p>{html.escape(repr(self))}</p>{table}"

    def _measure(self, epoch: int, device: torch.device) -> EpochRecord:
        what = f"monitor: epoch {epoch}: the loader"
        forward, batches = Forward.of_loader(self.network, device, self._loader, what, self.head)
        head, self.head = forward.head, forward.cut.head_name
        collector = Collector(head.num_classes, training_statistics({FitsOn.STATISTICS}, head.num_features))
        logits, labels, held = [], [], 0
        for passed in batches:
            collector.add(passed)
            logits.append(passed.chunk.logits)
            labels.append(passed.chunk.labels)
            held += passed.chunk.features.numel() * passed.chunk.features.element_size()
            if held > FEATURE_BYTES:
                collector.forget_features()
        statistics = collector.statistics[FitsOn.STATISTICS]
        numbers = training_numbers(torch.cat(logits), torch.cat(labels), self.loss)
        sample = f"{self.samples_per_class} a class of" if self.samples_per_class else "all of"
        numbers["train_from"] += f", {sample} the loader: {statistics.num_samples}"
        return EpochRecord(
            epoch=epoch,
            collapse=collapse_numbers(statistics, head, collector.split),
            **numbers,
            **network_numbers(self.network),
        )


def _class_balanced(loader: Any, samples_per_class: int) -> DataLoader:
    """A loader of the first so many samples of each class, in an order drawn once, of another loader's dataset."""
    if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
        raise PluginError(
            f"monitor: samples_per_class needs a DataLoader of a dataset with a length, got {type(loader).__name__};"
            " pass one, or leave it out"
        )
    batch_size, workers = loader.batch_size or 1, loader.num_workers
    in_order = DataLoader(loader.dataset, batch_size, num_workers=workers, collate_fn=loader.collate_fn)
    parts = []
    for batch in in_order:
        images, targets = images_and_labels("monitor: a batch of the loader", batch)
        parts.append(whole_labels("monitor: labels of the loader", targets, len(images)))
    labels = torch.cat(parts)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = [order[labels[order] == label][:samples_per_class] for label in labels.unique()]
    indices = torch.cat(chosen).sort().values.tolist()
    return DataLoader(loader.dataset, batch_size, sampler=indices, num_workers=workers, collate_fn=loader.collate_fn)
