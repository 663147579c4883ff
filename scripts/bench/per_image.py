"""Milliseconds per image of NCI, MSP and KNN end to end, from an image file to its score, beside the bare loop.

    python scripts/bench/per_image.py [--workload NAME] [--device DEVICE] [--training N]

The sides run in turn over the ID test images: the network alone, and the network with each fitted detector; once in
batches and once image by image. The detectors are fitted on made-up features, ``--training`` of them: the time of KNN
depends on how many there are, not on what they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measuring import in_turn, parser, publish
from torch.utils.data import Subset
from workload import Work, add_options, opened

from nci_plugin.benchmarks.benchmark import TEST
from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.cut import Cut
from nci_plugin.networks.head import LinearHead

DETECTORS = ("nci", "msp", "knn")


def fitted(head: LinearHead, samples: int, seed: int) -> dict[str, Detector]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, head.num_features, generator=generator).relu_()
    labels = torch.arange(samples) % head.num_classes
    training = {
        FitsOn.NOTHING: None,
        FitsOn.STATISTICS: ClassStatistics(head.num_classes, head.num_features).update(features, labels),
        FitsOn.BANK: FeatureSplit.of(features, head.logits(features), labels),
    }
    detectors = {name: registry.create(name) for name in DETECTORS}
    return {name: each.fit(training[each.fits_on], head) for name, each in detectors.items()}


def sides(
    cut: Cut, detectors: dict[str, Detector], split: Any, size: int, options: Any
) -> dict[str, Callable[[], None]]:
    pinned = torch.device(options.device).type == "cuda"

    def run(detector: Detector | None) -> None:
        for images, _ in image_batches(TEST, split, size, options.workers if size > 1 else 0, pinned):
            on_device = images.to(options.device, non_blocking=True)
            if detector is None:
                cut.network(on_device).cpu()
                continue
            features, logits = cut(on_device)
            detector.score(features.cpu(), logits.cpu())

    return {"bare": lambda: run(None), **{name: lambda each=each: run(each) for name, each in detectors.items()}}


def measure(work: Work, options: Any) -> dict[str, Any]:
    split = open_splits(work.benchmark)[TEST]
    network = work.network.to(options.device)
    cut = Cut.of(network, split[0][0][None].to(options.device))
    detectors = fitted(cut.head, options.training, options.seed)
    sizes = {"images": len(split), "training": options.training, "batch_size": options.batch_size}
    report: dict[str, Any] = {"sizes": sizes}
    alone = Subset(split, range(min(options.alone, len(split))))
    for form, images, size in (("in_batches", split, options.batch_size), ("alone", alone, 1)):
        seconds = in_turn(sides(cut, detectors, images, size, options), options.rounds)
        for name, value in seconds.items():
            report[f"{name}_{form}_ms_per_image"] = 1000 * value / len(images)
        for name in detectors:
            report[f"{name}_{form}_over_bare"] = seconds[name] / seconds["bare"]
    return report


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    add_options(made)
    made.add_argument("--training", type=int, default=50_000, metavar="N", help="training features (50000)")
    made.add_argument("--alone", type=int, default=100, metavar="N", help="images that are passed one by one (100)")
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds after one that warms up (5)")
    options = made.parse_args(arguments)
    with opened(options) as work, torch.no_grad():
        publish(measure(work, options), options.json)


if __name__ == "__main__":
    main()
