"""Grokking and collapse: when test accuracy settles, and when NC1 does, over weight decays.

    python scripts/study/grokking.py --figure grokking.png

Digits of scikit-learn: 200 images train (20 of each class), the other 1,597 test. An MLP of two hidden layers of 128
whose first weights are 6 times the usual ones fits them long before it generalises (Liu et al. 2022, Omnigrok: MSE on
one-hot targets, AdamW, all images a step, so that a step is an epoch). Sakamoto & Sato (2025, arXiv 2509.20829) explain
the delay by the contraction of the within-class variance, whose pace weight decay sets; that contraction is the
compression of the information bottleneck.

A series settles at the first logged epoch from which on it stays within a tenth of its range of its last value: test
accuracy, log NC1 of the training features, and log of the within-class share of variance of test features,
Tr(Sigma_W) / (Tr(Sigma_W) + Tr(Sigma_B)), which is the compression. Lag: the epoch at which test accuracy settles less
that at which log NC1 does, as log10 of their ratio too; and the same of the epochs from which on they are nearer to
their last value than to their first, which a slow tail does not move.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import t as student
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from nci_plugin import ClassStatistics
from nci_plugin.collapse.variability import nc1_quotient

EACH, WIDTH, SCALE, RATE = 20, 128, 6.0, 3e-3
DECAYS = (0.1, 0.3, 1.0)
EPOCHS, LOGGED = 6000, 90
SHARE = 0.1
"""Of its range: how near to its last value a series has settled."""

SERIES = ("train accuracy", "test accuracy", "NC1", "within share, test")


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 64) in 0..1 and labels that train, and that test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = np.concatenate([order[labels[order] == k][:EACH] for k in range(10)])
    rest = np.setdiff1d(order, chosen)
    pixels, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return pixels[chosen], targets[chosen], pixels[rest], targets[rest]


def settles(epochs: Sequence[int], values: ArrayLike, share: float = SHARE) -> int:
    """The first of ``epochs`` from which on ``values`` stay within ``share`` of their range of the last value."""
    series = np.asarray(values, dtype=float)
    away = np.abs(series - series[-1]) > share * np.ptp(series)
    return epochs[int(np.flatnonzero(away)[-1]) + 1 if away.any() else 0]


def halfway(epochs: Sequence[int], values: ArrayLike) -> int:
    """The first of ``epochs`` from which on ``values`` are nearer to the last value than to the first."""
    series = np.asarray(values, dtype=float)
    away = np.abs(series - series[-1]) >= np.abs(series - series[0])
    return epochs[min(int(np.flatnonzero(away)[-1]) + 1, len(series) - 1) if away.any() else 0]


def run(decay: float, seed: int, epochs: int = EPOCHS) -> tuple[list[int], dict[str, list[float]]]:
    """Logged epochs, and SERIES at each."""
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    head = nn.Linear(WIDTH, 10)
    parameters = [*trunk.parameters(), *head.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(SCALE)
    targets = functional.one_hot(labels, 10).float()
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=decay)
    logged = np.unique(np.geomspace(1, epochs, LOGGED).round().astype(int)).tolist()
    found: dict[str, list[float]] = {name: [] for name in SERIES}
    for epoch in range(1, epochs + 1):
        optimiser.zero_grad()
        functional.mse_loss(head(trunk(images)), targets).backward()
        optimiser.step()
        if epoch in logged:
            with torch.no_grad():
                features, test_features = trunk(images), trunk(test_images)
                right = (head(features).argmax(dim=1) == labels).float().mean()
                right_test = (head(test_features).argmax(dim=1) == test_labels).float().mean()
            ratio = nc1(test_features, test_labels)
            values = (100 * float(right), 100 * float(right_test), nc1(features, labels), ratio / (1 + ratio))
            for name, value in zip(SERIES, values):
                found[name].append(value)
    return logged, found


def nc1(features: Tensor, labels: Tensor) -> float:
    return nc1_quotient(ClassStatistics(10, WIDTH).update(features, labels))


def summary(logged: Sequence[int], found: dict[str, list[float]]) -> dict[str, float]:
    """When each series settles, how far apart, and where they end."""
    test = settles(logged, found["test accuracy"])
    collapse = settles(logged, np.log(found["NC1"]))
    compressed = settles(logged, np.log(found["within share, test"]))
    half_test, half_collapse = halfway(logged, found["test accuracy"]), halfway(logged, np.log(found["NC1"]))
    fitted = next((epoch for epoch, value in zip(logged, found["train accuracy"]) if value >= 99), logged[-1])
    return {
        "train fitted, epoch": fitted,
        "test settles, epoch": test,
        "NC1 settles, epoch": collapse,
        "test share settles, epoch": compressed,
        "lag: test less NC1": test - collapse,
        "log10 test / NC1": float(np.log10(test / collapse)),
        "half-way, test, epoch": half_test,
        "half-way, NC1, epoch": half_collapse,
        "log10 half-way test / NC1": float(np.log10(half_test / half_collapse)),
        "log10 test / test share": float(np.log10(test / compressed)),
        "test accuracy when fitted, %": found["test accuracy"][logged.index(fitted)],
        "test accuracy, %": found["test accuracy"][-1],
        "NC1": found["NC1"][-1],
        "within share, test": found["within share, test"][-1],
    }


def interval(values: Sequence[float]) -> str:
    """Mean ± half of Student's 95 % interval."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3g} ± {half:.2g}"


def tables(runs: dict[float, list[dict[str, float]]]) -> Iterator[str]:
    yield f"| | {' | '.join(f'decay {decay:g}' for decay in runs)} |\n|---|{'---|' * len(runs)}"
    for name in next(iter(runs.values()))[0]:
        yield f"| {name} | {' | '.join(interval([each[name] for each in some]) for some in runs.values())} |"


def draw(series: dict[float, tuple[list[int], dict[str, list[float]]]], path: Path) -> None:
    """Test accuracy, NC1 and compression over epochs, a column for each decay; lines where they settle."""
    figure = Figure(figsize=(2.6 * len(series), 4.6), layout="constrained")
    axes = figure.subplots(2, len(series), sharex=True, sharey="row", squeeze=False)
    for (decay, (logged, found)), (above, below) in zip(series.items(), axes.T):
        above.plot(logged, found["train accuracy"], color="0.6", label="train")
        above.plot(logged, found["test accuracy"], color="C0", label="test")
        below.plot(logged, found["NC1"], color="C3", label="NC1, train")
        below.plot(logged, found["within share, test"], color="C2", label="within-class share, test")
        for axis in (above, below):
            axis.axvline(settles(logged, found["test accuracy"]), color="C0", linestyle=":")
            axis.axvline(settles(logged, np.log(found["NC1"])), color="C3", linestyle=":")
        above.set_title(f"weight decay {decay:g}")
        above.set_xscale("log")
        below.set_yscale("log")
        below.set_xlabel("epoch")
    axes[0, 0].set_ylabel("accuracy, %")
    axes[0, 0].legend()
    axes[1, 0].set_ylabel("variance within classes")
    axes[1, 0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks for each decay, at least 2")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of training")
    parser.add_argument("--figure", type=Path, help="where the first seed's curves are drawn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    all_runs = {decay: [run(decay, seed, options.epochs) for seed in range(options.seeds)] for decay in DECAYS}
    print("\n".join(tables({decay: [summary(*each) for each in some] for decay, some in all_runs.items()})))
    if options.figure:
        draw({decay: some[0] for decay, some in all_runs.items()}, options.figure)


if __name__ == "__main__":
    main()
