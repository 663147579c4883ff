"""What a detector adds to its classifier's own time: `OODDetector.module` beside the bare network.

    python scripts/bench/service.py [--networks NAME ...] [--detectors NAME ...] [--batch-sizes N ...] [--classes N]

For each detector two sides run in turn, and their medians are compared: the bare network, and the module of both,
which gives logits, score and verdict in one forward pass. Networks have random weights and detectors are fitted on
made-up images: neither changes the time. ``*_over_bare`` is the ratio, ``*_added_ms`` the difference, and
``above_the_bound`` names the detectors that add more than 3 % and more than 0.1 ms.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from measuring import in_turn, parser, publish
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nci_plugin import OODDetector
from nci_plugin.deploy.fitting import fit_together
from nci_plugin.detectors.registry import detector_class, names
from nci_plugin.features.options import resolve_device
from nci_plugin.networks.resnet import ResNet18_32x32

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TRAINING, CALIBRATION = 600, 40
"""More training images than features, or matrices would be thinner than they are in use; and three of each class."""

DETECTORS = [name for name in names() if "N" not in detector_class(name).per_row.split() and name != "nci_auto"]
"""On statistics or logits: what KNN adds grows with its bank. nci_auto scores as nci does, and cannot be tuned on
images that a random network takes for one class."""

IMAGE_SIZES = {"resnet18": 224, "vit_tiny": 224, "resnet18_32x32": 32}
"""Networks, and the pixels of the images that they are made for."""

SHARE, LEAST_MS = 0.03, 0.1
"""What a module may add to the bare network, whichever is larger."""


class ViTTiny(torchvision.models.VisionTransformer):
    """The sizes of DeiT-tiny (Touvron et al. 2021): 12 layers of width 192 with 3 heads, patches of 16 pixels."""

    def __init__(self, image_size: int, classes: int) -> None:
        super().__init__(image_size, 16, 12, 3, 192, 768, num_classes=classes)


def network(name: str, image_size: int, classes: int) -> nn.Module:
    if name == "vit_tiny":
        made: nn.Module = ViTTiny(image_size, classes)
    elif name == "resnet18_32x32":
        made = ResNet18_32x32(num_classes=classes)
    else:
        made = torchvision.models.get_model(name, num_classes=classes)
    head = next(each for each in reversed(list(made.modules())) if isinstance(each, nn.Linear))
    nn.init.normal_(head.weight, std=0.1)  # a ViT's begins at zero
    return made.eval()


def images(count: int, image_size: int, classes: int, generator: torch.Generator) -> TensorDataset:
    return TensorDataset(
        torch.randn(count, 3, image_size, image_size, generator=generator), torch.arange(count) % classes
    )


def runner(module: nn.Module, batch: Tensor) -> Callable[[], None]:
    def once() -> None:
        with torch.inference_mode():
            module(batch)
            if batch.device.type == "cuda":
                torch.cuda.synchronize(batch.device)

    return once


def measure(options: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(options.seed)
    device = resolve_device(options.device)
    report: dict[str, Any] = {
        "sizes": {"rounds": options.rounds, "classes": options.classes, "image_size": {}},
        "above_the_bound": {},
    }
    torch.manual_seed(options.seed)
    for name in options.networks:
        pixels = report["sizes"]["image_size"][name] = options.image_size or IMAGE_SIZES.get(name, 224)
        model = network(name, pixels, options.classes).to(device)
        counts = max(TRAINING, 3 * options.classes), CALIBRATION
        train, val = (images(count, pixels, options.classes, generator) for count in counts)
        fitted = [OODDetector(detector, batch_size=20, progress=False) for detector in options.detectors]
        fit_together(fitted, model, train, val)
        modules: dict[str, nn.Module] = {name: each.module() for name, each in zip(options.detectors, fitted)}
        for size in options.batch_sizes:
            batch = images(size, pixels, options.classes, generator).tensors[0].to(device)
            rounds = options.rounds if size > 1 else 20 * options.rounds
            bare, over = [], []
            for detector, module in modules.items():
                pair = {"bare": runner(model, batch), "with": runner(module, batch)}
                seconds = in_turn(pair, rounds, CLOCKS[options.clock])
                added = seconds["with"] - seconds["bare"]
                if added > max(SHARE * seconds["bare"], LEAST_MS / 1000):
                    over.append(detector)
                bare.append(seconds["bare"])
                report[f"{name}_{size}_{detector}_added_ms"] = 1000 * added
                report[f"{name}_{size}_{detector}_over_bare"] = seconds["with"] / seconds["bare"]
            report[f"{name}_{size}_bare_ms"] = 1000 * statistics.median(bare)
            report["above_the_bound"][f"{name}_{size}"] = over
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=list(IMAGE_SIZES), metavar="NAME")
    made.add_argument("--detectors", nargs="+", default=list(DETECTORS), metavar="NAME")
    made.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 200], metavar="N", help="(1 200)")
    made.add_argument("--classes", type=int, default=10, metavar="N", help="of the networks (10)")
    made.add_argument("--image-size", type=int, metavar="N", help="pixels (those that a network is made for)")
    made.add_argument("--rounds", type=int, default=9, metavar="N", help="timed; at batch 1 20 times as many (9)")
    made.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: where others use the machine too (wall)")
    made.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (cpu)")
    options = made.parse_args(arguments)
    publish(measure(options), options.json)


if __name__ == "__main__":
    main()
