"""Does collapse cost transfer? Foreign labels, a second task and geometric complexity against NC1, on digits.

    python scripts/study/transfer.py

MLPs of three hidden layers of 64 are trained on the digits 0 to 4 of scikit-learn (half of their images) in 12 regimes,
4 lengths of training by 3 weight decays (Adam), for each seed. Of each network:

* Foreign labels: a logistic regression on the output of every stage, standardised, learns the digits 5 to 9 from 10
  images of each and is tested on the others (linear probe); beside NC1 of the stage on the digits it was trained for.
  Over-collapse says that the probe is worse where NC1 is smaller (Kornblith et al. 2021 of losses that separate classes
  more); Galanti et al. (2022) say that collapse carries over to new classes.
* Class-incremental: it then learns the digits 5 to 9 for 40 epochs in the same head of ten outputs, without decay,
  with 5 images of each of the old digits kept. Forgetting is its accuracy on the old test images before less after
  (Chaudhry et al. 2018), with all ten outputs; and that of the nearest mean of the new features of the old training
  images, which no head favours.
* Geometric complexity of the features (Munn et al. 2024): the paper says that it is smaller where NC1 is, and the probe
  better.

Spearman's correlation over the 12 regimes, one for each seed; the interval is Student's 95 % over seeds, and a verdict
is one where it does not hold 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from scipy.stats import t as student
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from nci_plugin import ClassStatistics
from nci_plugin.collapse.complexity import geometric_complexity
from nci_plugin.collapse.geometry import centre_distances
from nci_plugin.collapse.variability import nc1_quotient

OLD, WIDTH, STAGES = 5, 64, 3
LENGTHS, DECAYS = (20, 60, 200, 600), (0.0, 1e-3, 1e-2)
SHOTS, KEPT, NEW_EPOCHS = 10, 5, 40
RATE = 1e-3


class Network(nn.Module):
    """An MLP on 64 pixels with ten outputs; `stages` gives what every hidden layer leaves."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [64, *[WIDTH] * STAGES]
        self.hidden = nn.ModuleList(nn.Linear(*size) for size in zip(sizes, sizes[1:]))
        self.head = nn.Linear(WIDTH, 10)

    def stages(self, images: Tensor) -> list[Tensor]:
        found = []
        for layer in self.hidden:
            images = functional.relu(layer(images))
            found.append(images)
        return found

    def features(self, images: Tensor) -> Tensor:
        return self.stages(images)[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images (n, 64) in 0..1 and labels: halves of the old digits 0 to 4, and of the new ones 5 to 9."""
    images, labels = load_digits(return_X_y=True)
    pixels, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order, found = torch.tensor(np.random.default_rng(0).permutation(len(labels))), {}
    for name, chosen in (("old", targets[order] < OLD), ("new", targets[order] >= OLD)):
        for part, rows in zip(("train", "test"), order[chosen].tensor_split(2)):
            found[f"{name} {part}"] = pixels[rows], targets[rows]
    return found


def learn(network: Network, images: Tensor, labels: Tensor, epochs: int, decay: float) -> Network:
    optimiser = torch.optim.Adam(network.parameters(), RATE, weight_decay=decay)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
    return network


def few(labels: Tensor, count: int) -> Tensor:
    """The first ``count`` rows of each label."""
    return torch.cat([(labels == each).nonzero()[:count, 0] for each in labels.unique()])


def probe(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy of a logistic regression on standardised features, percent."""
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(train), labels)
    return 100 * float(model.score(scaler.transform(test), test_labels))


def accuracy(network: Network, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((network(images).argmax(dim=1) == labels).float().mean())


def nearest_mean(network: Network, data: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """Accuracy of the nearest mean of the old training images on the old test images, percent."""
    (images, labels), (test_images, test_labels) = data["old train"], data["old test"]
    with torch.no_grad():
        means = ClassStatistics(OLD, WIDTH).update(network.features(images), labels).means
        nearest = centre_distances(network.features(test_images), means).argmin(dim=1)
    return 100 * float((nearest == test_labels).float().mean())


def measured(length: int, decay: float, seed: int) -> dict[str, float]:
    """One network of one regime: NC1 and probes by stage, geometric complexity, forgetting."""
    data = digits()
    torch.manual_seed(seed)
    images, labels = data["old train"]
    network = learn(Network(), images, labels, length, decay)
    found = {"accuracy": accuracy(network, *data["old test"])}
    shots = few(data["new train"][1], SHOTS)
    new_images, new_labels = data["new train"]
    with torch.no_grad():
        old = network.stages(images)
        new, new_test = network.stages(new_images[shots]), network.stages(data["new test"][0])
    for place in range(STAGES):
        found[f"NC1, stage {place + 1}"] = nc1_quotient(ClassStatistics(OLD, WIDTH).update(old[place], labels))
        found[f"probe, stage {place + 1}, %"] = probe(
            new[place], new_labels[shots], new_test[place], data["new test"][1]
        )
    found["geometric complexity"] = geometric_complexity(network.features, images)
    found["nearest mean, old, %"] = nearest_mean(network, data)
    kept = few(labels, KEPT)
    both = torch.cat([new_images, images[kept]]), torch.cat([new_labels, labels[kept]])
    learn(network, *both, NEW_EPOCHS, 0.0)
    found["forgetting, %"] = found["accuracy"] - accuracy(network, *data["old test"])
    found["forgetting of the nearest mean, %"] = found["nearest mean, old, %"] - nearest_mean(network, data)
    found["accuracy on the new, %"] = accuracy(network, *data["new test"])
    return found


LAST = f"NC1, stage {STAGES}"
QUESTIONS = (
    *((f"NC1, stage {place}", f"probe, stage {place}, %") for place in range(1, STAGES + 1)),
    (LAST, "forgetting, %"),
    (LAST, "forgetting of the nearest mean, %"),
    (LAST, "geometric complexity"),
    ("geometric complexity", f"probe, stage {STAGES}, %"),
)
"""Pairs of measures whose correlation over regimes is asked for."""


def correlations(runs: Sequence[Sequence[Mapping[str, float]]]) -> Iterator[tuple[str, str, float, float]]:
    """Of each question the mean of Spearman's correlation over seeds and half of its 95 % interval."""
    for one, other in QUESTIONS:
        ranks = [spearmanr([each[one] for each in run], [each[other] for each in run])[0] for run in runs]
        half = student.ppf(0.975, len(ranks) - 1) * np.std(ranks, ddof=1) / np.sqrt(len(ranks))
        yield one, other, float(np.mean(ranks)), float(half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each regime, at least 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    regimes = [(length, decay) for length in LENGTHS for decay in DECAYS]
    runs = [[measured(*regime, seed) for regime in regimes] for seed in range(options.seeds)]
    data = digits()
    print("n:", ", ".join(f"{len(labels)} {name}" for name, (_, labels) in data.items()), f"; {options.seeds} seeds\n")
    shown = [name for name in runs[0][0] if name != "nearest mean, old, %"]
    print(f"| epochs | decay | {' | '.join(shown)} |\n|---|---|{'---|' * len(shown)}")
    for place, (length, decay) in enumerate(regimes):
        cells = [f"{np.mean([run[place][name] for run in runs]):.3g}" for name in shown]
        print(f"| {length} | {decay:g} | {' | '.join(cells)} |")
    print("\n| over 12 regimes | with | Spearman, mean ± 95 % | verdict |\n|---|---|---|---|")
    for one, other, mean, half in correlations(runs):
        verdict = "undecided" if abs(mean) <= half else "together" if mean > 0 else "against each other"
        print(f"| {one} | {other} | {mean:+.2f} ± {half:.2f} | {verdict} |")


if __name__ == "__main__":
    main()
