"""Networks read back from the features that `nci-ood eval` stored, with numpy arrays of what NCI is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import Benchmark, Features
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.store import SplitStore
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead

Array = NDArray[np.float64]
GROUPS = ("near", "far")


@dataclass(frozen=True)
class Rows:
    """Features (n, P), logits (n, K), labels (n,) of a split, and its pScore and ||h||_1 (n,)."""

    h: Array
    z: Array
    y: NDArray[np.int64]
    p: Array
    n: Array


@dataclass
class Network:
    """A network of a results directory: its name, and the seed of the part that the network is, or an empty text."""

    name: str
    seed: str
    splits: Mapping[str, FeatureSplit]
    head: LinearHead
    rows: Mapping[str, Rows] = field(init=False)

    def __post_init__(self) -> None:
        mean = self.splits["id/train"].features.double().mean(dim=0).numpy()
        self.rows = {name: self.measured(split, mean) for name, split in self.splits.items()}

    def measured(self, split: FeatureSplit, mean: Array) -> Rows:
        h, z = split.features.double().numpy(), split.logits.double().numpy()
        return Rows(h, z, split.labels.numpy(), self.p_score(h, z, mean), np.abs(h).sum(axis=1))

    def p_score(self, h: Array, z: Array, mean: Array) -> Array:
        """pScore (n,) with ``mean`` for mu_G."""
        weight = self.head.weight.double().numpy()[z.argmax(axis=1)]
        return ((h - mean) * weight).sum(axis=1) / np.maximum(np.linalg.norm(h - mean, axis=1), 1e-12)

    def logits(self, h: Array) -> Array:
        return h @ self.head.weight.double().numpy().T + self.head.bias.double().numpy()

    def benchmark(self) -> Benchmark:
        """Its splits as a benchmark, so that `evaluate` scores them like any other."""
        given = {name: Features(split.features, split.labels, split.logits) for name, split in self.splits.items()}
        groups = {
            group: {name.split("/")[1]: split for name, split in given.items() if name.startswith(f"{group}/")}
            for group in ("csid", *GROUPS)
        }
        one = {name: given[name] for name in ("id/train", "id/val", "id/test", "ood/val")}
        return Benchmark.from_splits(
            self.name,
            self.head.num_classes,
            **dict(zip(("train", "val", "test", "ood_val"), one.values())),
            **groups,
        )

    def aurocs(self, score: Mapping[str, Array]) -> Array:
        """AUROC of near and far in percent, (2,): the mean over the data sets of the group."""
        groups = [[name for name in score if name.startswith(f"{group}/")] for group in GROUPS]
        return np.array([100 * np.mean([auroc(score["id/test"], score[name]) for name in names]) for names in groups])

    def nci(self, alpha: float) -> Array:
        """What `aurocs` gives for NCI with ``alpha``."""
        return self.aurocs({name: rows.p + alpha * rows.n for name, rows in self.rows.items()})


def networks(directories: Sequence[Path]) -> Iterator[Network]:
    """The networks of results directories, one after the other."""
    for directory in directories:
        alone = [each for each in directory.glob("features") if next(each.glob("*/*/split.json"), None)]
        for features in alone or sorted(directory.glob("s*/features")):
            seed = "" if features.parent == directory else features.parent.name
            yield _load(directory.name, seed, features)


def _load(name: str, seed: str, features: Path) -> Network:
    splits, network = {}, ""
    for path in sorted(features.glob("*/*/split.json")):
        said = json.loads(path.read_text())
        split = SplitStore(path.parent).load()
        if split is not None:
            if said["split"] in splits:
                raise SystemExit(f"{features}: holds '{said['split']}' twice; delete what is stale")
            splits[said["split"]], network = split, said["network"]
    if "id/train" not in splits:
        raise SystemExit(f"{features}: no stored features of id/train; evaluate knn or nci_plus there")
    return Network(name, seed, splits, _head(list(splits.values()), network))


def _head(splits: Sequence[FeatureSplit], network: str) -> LinearHead:
    """The head, which is not stored: logits are linear in the features, and their coefficients a least-squares fit."""
    h = torch.cat([split.features for split in splits]).double()
    z = torch.cat([split.logits for split in splits]).double()
    found = torch.linalg.lstsq(torch.cat([h, torch.ones(len(h), 1)], dim=1), z, driver="gelsd").solution
    head = LinearHead(found[:-1].T.float().contiguous(), found[-1].float(), network)
    worst = float((head.logits(h.float()) - z).abs().max() / z.abs().max())
    if worst > 1e-3:
        raise SystemExit(f"the logits are not a linear function of the features (off by {worst:.1e} of the largest)")
    return head
