"""The pre-registered comparison of docs/studies/second_form.md: NCI-G against NCI, on networks it was not designed on.

    nci-ood eval BENCHMARK.yml --net FILE.py:FACTORY --ckpt-path WEIGHTS --detectors knn --output results/NAME
    python scripts/study/second_form.py results/cifar10_densenet results/cifar10_vit results/cifar10_resnet20@10 ...

Takes results directories of `nci-ood eval` in which the features of all splits are stored, the training split's too.
``DIRECTORY@N`` is that network with N training images a class (the mean of five draws); without it, all that are there.
Prints the AUROC near / far of every detector in percent, and the verdict of the rule that the page states.
``--setting fsood`` prints the table of the full spectrum instead, without a verdict: the rule is about the standard
setting.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from stored import Network, networks

from nci_plugin import evaluate
from nci_plugin.features.split import FeatureSplit

REFERENCE, FORM = "nci", "nci_gated"
DETECTORS = [
    *(REFERENCE, FORM, "nci_auto", "nci_plus", "pscore", "whitened_cosine", "whitened_cosine_pp"),
    *("mds_pp", "rmds_pp", "knn", "msp"),
]
FULL_SPECTRUM = [*DETECTORS, "pscore_data_free"]
DRAWS = 5
MARGIN = 0.5
"""Points that near and far may each be below the reference on a network."""

LEAST_IMAGES = 10
"""Training images a class from which a network counts for the verdict."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with so many training images a class; None: all that are stored."""

    directory: Path
    images: int | None

    @classmethod
    def parse(cls, text: str) -> Case:
        directory, _, images = text.partition("@")
        return cls(Path(directory), int(images) if images else None)

    @property
    def name(self) -> str:
        return self.directory.name + (f"@{self.images}" if self.images else "")

    def measure(self, setting: str = "ood") -> tuple[dict[str, np.ndarray], float]:
        """AUROC near and far (2,) by detector, the mean over seeds and draws, and training images a class."""
        found: dict[str, list[np.ndarray]] = {}
        images = []
        for network in networks([self.directory]):
            for draw in range(DRAWS if self.images else 1):
                part = network if self.images is None else thinned(network, self.images, draw)
                images.append(len(part.splits["id/train"]) / part.head.num_classes)
                for name, pair in aurocs(part, setting).items():
                    found.setdefault(name, []).append(pair)
        return {name: np.mean(pairs, axis=0) for name, pairs in found.items()}, float(np.mean(images))


def thinned(network: Network, images: int, seed: int) -> Network:
    """The network with ``images`` training images of each class, drawn by ``seed``."""
    split, generator = network.splits["id/train"], np.random.default_rng(seed)
    labels = split.labels.numpy()
    rows = np.sort(
        np.concatenate([generator.permutation(np.flatnonzero(labels == k))[:images] for k in np.unique(labels)])
    )
    part = FeatureSplit.of(split.features[rows], split.logits[rows], split.labels[rows])
    return dataclasses.replace(network, splits={**network.splits, "id/train": part})


def aurocs(network: Network, setting: str) -> dict[str, np.ndarray]:
    """AUROC near and far in percent by detector in a setting; one that cannot be used is said, and left out."""
    if setting == "fsood" and not any(name.startswith("csid/") for name in network.splits):
        raise SystemExit(f"{network.name}: no covariate-shifted samples; evaluate a benchmark with csid sets there")
    detectors = DETECTORS if setting == "ood" else FULL_SPECTRUM
    done = evaluate(network.head, network.benchmark(), detectors, device="cpu", progress=False)
    for name, reason in done.failures.items():
        print(f"{network.name}: {name} left out: {reason}", file=sys.stderr)
    found: dict[str, np.ndarray] = {}
    for result in done.results:
        if result.setting == setting and result.dataset in ("nearood", "farood"):
            found.setdefault(result.detector, np.full(2, np.nan))[int(result.dataset == "farood")] = result.auroc
    return found


def verdict(gains: Mapping[str, np.ndarray]) -> str:
    """The rule, on near and far of the form less those of the reference by network."""
    worst = {name: pair for name, pair in gains.items() if pair.min() < -MARGIN}
    mean = np.mean(list(gains.values()), axis=0)
    said = f"mean {mean[0]:+.2f} / {mean[1]:+.2f} over {len(gains)} networks"
    if worst:
        said += "; below the margin on " + ", ".join(f"{name} {p[0]:+.2f} / {p[1]:+.2f}" for name, p in worst.items())
    return f"{FORM} is {'' if not worst and mean.min() > 0 else 'not '}recommended: {said}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", type=Case.parse, metavar="RESULTS[@IMAGES]")
    parser.add_argument("--setting", choices=("ood", "fsood"), default="ood", help="default: %(default)s")
    options = parser.parse_args(arguments)
    measured = {case.name: case.measure(options.setting) for case in options.cases}
    print(f"| | {' | '.join(measured)} |")
    print("|---|" + "---|" * len(measured))
    print("| training images a class | " + " | ".join(f"{images:.4g}" for _, images in measured.values()) + " |")
    for name in DETECTORS if options.setting == "ood" else FULL_SPECTRUM:
        pairs = [found.get(name) for found, _ in measured.values()]
        print(f"| {name} | " + " | ".join("" if p is None else f"{p[0]:.2f} / {p[1]:.2f}" for p in pairs) + " |")
    gains = {name: found[FORM] - found[REFERENCE] for name, (found, _) in measured.items()}
    print(f"| **{FORM} - {REFERENCE}** | " + " | ".join(f"{p[0]:+.2f} / {p[1]:+.2f}" for p in gains.values()) + " |")
    if options.setting == "fsood":
        return
    counted = {name: gains[name] for name, (_, images) in measured.items() if images >= LEAST_IMAGES}
    print(f"\n{verdict(counted)}" if counted else "\nno network counts for the verdict")


if __name__ == "__main__":
    main()
