"""Collapse and OOD scores under attack, on scikit-learn's digits: 0 to 5 are ID, 6 to 9 OOD.

    python scripts/study/attack.py

Three MLPs of each seed: standard, adversarially trained (PGD, Madry et al. 2018) and TRADES (Zhang et al. 2019).
Attacks are in the L-infinity ball of EPSILON on pixels 0..1, clipped there: FGSM (Goodfellow et al. 2015) and PGD of 20
steps on cross-entropy, and PGD of 20 steps on each detector's own score, which raises that of OOD images or lowers that
of ID images. Gradients go through the detector itself.

The leap (`nci_plugin.collapse.leap`): of test images whose class the attack changed from y to t, the share whose
feature is nearest to mu_t, and the displacement along mu_t - mu_y in units of its length, after every layer; beside it
NC1 of clean and attacked training features, and how often the nearest class mean is the right one on attacked test
images. High pScore and high norm at once: OOD images are attacked on the sum of both terms of NCI, and every detector
is asked how they score. Half of the ID images train.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from nci_plugin import ClassStatistics, Detector, FitsOn, LinearHead
from nci_plugin.collapse.geometry import centre_distances
from nci_plugin.collapse.leap import leap
from nci_plugin.collapse.variability import nc1_quotient
from nci_plugin.detectors import registry
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import unit_rows
from nci_plugin.metrics import auroc

EPSILON, STEPS, TRAINING_STEPS = 0.1, 20, 5
CLASSES, WIDTHS = 6, (128, 128, 64)
EPOCHS, BETA = 40, 6.0
KINDS = ("standard", "adversarial", "TRADES")
DETECTORS = ("nci", "nci_plus", "mds_pp", "knn")

Objective = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """An MLP on 64 pixels; `layers` gives what every hidden layer leaves, the last of which are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(*size) for size in zip((64, *WIDTHS), WIDTHS))
        self.head = nn.Linear(WIDTHS[-1], CLASSES)

    def layers(self, images: Tensor) -> list[Tensor]:
        found = []
        for layer in self.hidden:
            images = functional.relu(layer(images))
            found.append(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images)[-1])


@dataclass(frozen=True)
class Data:
    """Images (n, 64) in 0..1 and labels (n,) of the ID halves, and OOD images."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    ood: Tensor


def digits() -> Data:
    images, labels = load_digits(return_X_y=True)
    pixels, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    known = torch.tensor(np.random.default_rng(0).permutation(np.flatnonzero(labels < CLASSES)))
    first, second = known.tensor_split(2)
    return Data(pixels[first], targets[first], pixels[second], targets[second], pixels[targets >= CLASSES])


def ascend(images: Tensor, objective: Objective, steps: int, start: bool = True) -> Tensor:
    """Images that raise ``objective`` (n,) by signs of gradients within EPSILON; one step without ``start`` is FGSM."""
    size = EPSILON if steps == 1 else 2.5 * EPSILON / steps
    moved = images + EPSILON * (2 * torch.rand_like(images) - 1) if start else images.clone()
    for _ in range(steps):
        moved = moved.clamp(0, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(moved).sum(), moved)
        moved = images + (moved + size * gradient.sign() - images).clamp(-EPSILON, EPSILON)
    return moved.clamp(0, 1).detach()


def against(network: Network, labels: Tensor) -> Objective:
    """Cross-entropy of the right class, by image."""
    return lambda images: functional.cross_entropy(network(images), labels, reduction="none")


def trained(kind: str, data: Data, seed: int, epochs: int = EPOCHS) -> Network:
    """A network of KINDS; Adam, batches of 64."""
    torch.manual_seed(seed)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train)).split(64):
            images, labels = data.train[rows], data.train_labels[rows]
            if kind == "standard":
                loss = functional.cross_entropy(network(images), labels)
            elif kind == "adversarial":
                moved = ascend(images, against(network, labels), TRAINING_STEPS)
                loss = functional.cross_entropy(network(moved), labels)
            else:
                with torch.no_grad():
                    clean = network(images).softmax(dim=1)
                moved = ascend(images, divergence(network, clean), TRAINING_STEPS)
                logits = network(images)
                gap = functional.kl_div(
                    network(moved).log_softmax(dim=1), logits.softmax(dim=1), reduction="batchmean"
                )  # fmt: skip
                loss = functional.cross_entropy(logits, labels) + BETA * gap
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval().requires_grad_(False)


def divergence(network: Network, clean: Tensor) -> Objective:
    """KL of the clean softmax (n, K) and that of the moved images, by image."""
    return lambda images: functional.kl_div(network(images).log_softmax(dim=1), clean, reduction="none").sum(dim=1)


def statistics_of(features: Tensor, labels: Tensor) -> ClassStatistics:
    return ClassStatistics(CLASSES, features.shape[1]).update(features, labels)


def classification(network: Network, data: Data) -> dict[str, float]:
    """Accuracies in percent, NC1 of clean and attacked training features, and the leap after every layer."""
    objective = against(network, data.test_labels)
    fgsm, pgd = ascend(data.test, objective, 1, start=False), ascend(data.test, objective, STEPS)

    def accuracy(images: Tensor) -> float:
        return 100 * float((network(images).argmax(dim=1) == data.test_labels).float().mean())

    attacked = ascend(data.train, against(network, data.train_labels), STEPS)
    found = {"accuracy": accuracy(data.test), "FGSM": accuracy(fgsm), "PGD": accuracy(pgd)}
    before, after = network(data.test).argmax(dim=1), network(pgd).argmax(dim=1)
    changed = (before == data.test_labels) & (after != before)
    found["changed, %"] = 100 * float(changed.float().mean())
    of_train, of_attacked, of_test, of_pgd = map(network.layers, (data.train, attacked, data.test, pgd))
    for place, (train, moved_train, clean, moved) in enumerate(zip(of_train, of_attacked, of_test, of_pgd), 1):
        statistics = statistics_of(train, data.train_labels)
        found[f"NC1, layer {place}"] = nc1_quotient(statistics)
        found[f"NC1 attacked, layer {place}"] = nc1_quotient(statistics_of(moved_train, data.train_labels))
        nearest = centre_distances(moved, statistics.means).argmin(dim=1)
        found[f"nearest mean right under PGD, layer {place}, %"] = 100 * float(
            (nearest == data.test_labels).double().mean()
        )
        jump = leap(clean[changed], moved[changed], before[changed], after[changed], statistics.means)
        found[f"at target, layer {place}, %"] = 100 * jump.at_target
        found[f"leap, layer {place}"] = jump.displacement
    return found


def fitted(name: str, network: Network, data: Data) -> Detector:
    """A detector on the training half; what calibrates does so on the first half of the test images."""
    features = network.layers(data.train)[-1]
    detector, head = registry.create(name), LinearHead.from_linear(network.head)
    of_test = network.layers(data.test)[-1]
    validation = FeatureSplit.of(of_test, network.head(of_test), data.test_labels).rows(0, len(of_test) // 2)
    training = {
        FitsOn.STATISTICS: lambda: statistics_of(features, data.train_labels),
        FitsOn.UNIT_STATISTICS: lambda: statistics_of(unit_rows(features), data.train_labels),
        FitsOn.BANK: lambda: FeatureSplit.of(features, network.head(features), data.train_labels),
        FitsOn.NOTHING: lambda: None,
    }[detector.fits_on]()
    return detector.fit(training, head, FeatureSplit([validation]))


def detection(network: Network, data: Data) -> dict[str, float]:
    """AUROC in percent of each detector: clean, OOD images raised, ID images lowered; and NCI's two terms at once."""
    tested = data.test[len(data.test) // 2 :]  # the first half calibrates
    found: dict[str, float] = {}

    def scored(detector: Detector) -> Objective:
        def score(images: Tensor) -> Tensor:
            features = network.layers(images)[-1]
            return detector.score(features, network.head(features))

        return score

    p_score, norm = scored(fitted("pscore", network, data)), scored(fitted("feature_norm", network, data))
    terms = [(term, term(tested)) for term in (p_score, norm)]

    def both(images: Tensor) -> Tensor:
        return sum(term(images) / values.std() for term, values in terms)  # type: ignore[return-value]

    def share(images: Tensor) -> float:
        """Percent of images with both terms above the median of ID test images."""
        above = [term(images) > values.median() for term, values in terms]
        return 100 * float((above[0] & above[1]).double().mean())

    towards_both = ascend(data.ood, both, STEPS)
    found["both terms high: ID, %"] = share(tested)
    found["both terms high: OOD, %"] = share(data.ood)
    found["both terms high: OOD raised on both, %"] = share(towards_both)
    for name in DETECTORS:
        score = scored(fitted(name, network, data))
        raised = ascend(data.ood, score, STEPS)
        lowered = ascend(tested, lambda images, score=score: -score(images), STEPS)
        known, unknown = score(tested).detach().numpy(), score(data.ood).detach().numpy()
        found[f"{name}, clean"] = 100 * auroc(known, unknown)
        found[f"{name}, OOD raised"] = 100 * auroc(known, score(raised).detach().numpy())
        found[f"{name}, OOD raised on both terms"] = 100 * auroc(known, score(towards_both).detach().numpy())
        found[f"{name}, ID lowered"] = 100 * auroc(score(lowered).detach().numpy(), unknown)
        found[f"both terms high: OOD raised on {name}, %"] = share(raised)
    return found


def measured(kind: str, seed: int, data: Data, epochs: int = EPOCHS) -> dict[str, float]:
    network = trained(kind, data, seed, epochs)
    torch.manual_seed(seed)
    return {**classification(network, data), **detection(network, data)}


def interval(runs: Sequence[Mapping[str, float]], name: str) -> str:
    """Mean ± half of Student's 95 % interval over seeds."""
    values = [run[name] for run in runs]
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3g} ± {half:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind, at least 2")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    runs = {kind: [measured(kind, s, data, options.epochs) for s in range(options.seeds)] for kind in KINDS}
    print(f"n = {len(data.train)} training, {len(data.test)} test, {len(data.ood)} OOD images; {options.seeds} seeds")
    print(f"\n| | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for name in runs[KINDS[0]][0]:
        print(f"| {name} | {' | '.join(interval(runs[kind], name) for kind in KINDS)} |")


if __name__ == "__main__":
    main()
