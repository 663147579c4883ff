"""OpenOOD's recorder ``collapse``: one of its own, and the collapse trajectory of the training beside it.

Importing this module imports openood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openood.datasets import get_dataloader
from openood.preprocessors.test_preprocessor import TestStandardPreProcessor
from openood.utils.config import Config
from torch import nn
from torch.utils.data import DataLoader

from nci_plugin.checks import check_keys, check_number
from nci_plugin.dynamics.monitor import CollapseMonitor
from nci_plugin.dynamics.trajectory import FILE_NAME, FN, Condition

COLLAPSE = "collapse"
KEYS = ("name", "save_all_models", "base", "every", "samples_per_class", "settled")


class CollapseRecorder:
    """Records as the recorder ``base`` does, and writes ``trajectory.jsonl`` into the output directory.

    Keys of the configuration's ``recorder``: ``name: collapse``; ``base``, the recorder of OpenOOD's that does the rest
    (base); ``every``, the epochs between two records (1); ``samples_per_class`` (all); and ``settled``, the name of a
    number, e.g. nc1_quotient: a line says when it has settled. Training images are read with the test preprocessing.
    """

    def __init__(self, config: Config, get_recorder: Callable[[Config], Any]) -> None:
        options = config.recorder
        check_keys("config: recorder", options, KEYS)
        self.every = options.every or 1
        check_number("config: recorder: every", self.every, above=0, whole=True)
        inner = Config(config)
        inner.recorder.name = options.base or "base"
        self.recorder = get_recorder(inner)
        self.config, self.watched = config, options.settled
        self.monitor: CollapseMonitor | None = None

    def save_model(self, net: nn.Module, val_metrics: Mapping[str, Any]) -> None:
        """Save as the inner recorder does, and measure the network if its epoch's turn has come."""
        self.recorder.save_model(net, val_metrics)
        if self.monitor is None:
            self.monitor = CollapseMonitor(
                net,
                _training_loader(self.config),
                self.every,
                samples_per_class=self.config.recorder.samples_per_class,
                output=Path(self.config.output_dir) / FILE_NAME,
                run=str(self.config.exp_name or self.config.output_dir),
                conditions=_conditions(self.config),
            )
        self.monitor.step(val_metrics["epoch_idx"])

    def report(self, train_metrics: Mapping[str, Any], val_metrics: Mapping[str, Any]) -> None:
        """Report as the inner recorder does, and print NC1 and fn of an epoch that was measured."""
        self.recorder.report(train_metrics, val_metrics)
        records = self.monitor.trajectory.records if self.monitor else []
        if self.monitor is None or not records or records[-1].epoch != val_metrics["epoch_idx"]:
            return
        nc1, fn = (records[-1].collapse[name] for name in ("nc1_quotient", FN))
        shown = ["none" if value is None else f"{value:.4g}" for value in (nc1, fn)]
        line = f"Collapse | NC1 {shown[0]} | feature norm {shown[1]}"
        if self.watched and self.monitor.settled(self.watched):
            line += f" | {self.watched} has settled"
        print(line, flush=True)

    def summary(self) -> None:
        self.recorder.summary()
        print(f"Collapse | {Path(self.config.output_dir) / FILE_NAME}", flush=True)


def _training_loader(config: Config) -> DataLoader:
    """OpenOOD's training images in order, with its test preprocessing."""
    alone = Config(config)
    alone.dataset.split_names = ["train"]
    dataset = get_dataloader(alone)["train"].dataset
    dataset.preprocessor = dataset.transform_image = TestStandardPreProcessor(config)
    return DataLoader(dataset, config.dataset.train.batch_size, num_workers=config.dataset.num_workers)


def _conditions(config: Config) -> dict[str, Condition]:
    found = {
        "architecture": config.network.name,
        "data": config.dataset.name,
        "training": config.trainer.name,
        "epochs": config.optimizer.num_epochs,
        "learning_rate": config.optimizer.lr,
        "weight_decay": config.optimizer.weight_decay,
        "seed": config.seed,
    }
    return {name: value for name, value in found.items() if value is not None}
