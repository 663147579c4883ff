"""NCI, MSP and KNN on a device: GB of features and logits a second, against a copy on the same device.

    python scripts/bench/device_scoring.py --device cuda [--samples N] [--bank N] [--features P] [--classes K]

What is read is counted once: features and logits in float32, for KNN the training features once for every 1024 images.
On a CPU KNN is timed with faiss too, where that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from measuring import gpu_peak, in_turn, keep, parser, publish

from nci_plugin.detectors import KNN, MSP, NCI
from nci_plugin.detectors.knn import QUERY_ROWS
from nci_plugin.features.options import resolve_device
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--device", default="cuda", help="(cuda)")
    made.add_argument("--samples", type=int, default=100_000, metavar="N", help="images to score (100000)")
    made.add_argument("--bank", type=int, default=100_000, metavar="N", help="training features of KNN (100000)")
    made.add_argument("--features", type=int, default=2048, metavar="P", help="their width (2048)")
    made.add_argument("--classes", type=int, default=1000, metavar="K", help="classes (1000)")
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds after one that warms up (5)")
    asked = made.parse_args(arguments)
    device, generator = resolve_device(asked.device), torch.Generator().manual_seed(asked.seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    head = LinearHead(random(asked.classes, asked.features) / asked.features**0.5, torch.zeros(asked.classes))
    bank = random(asked.bank, asked.features).relu_()
    labels = torch.arange(asked.bank) % asked.classes
    features = random(asked.samples, asked.features).relu_().to(device)
    logits = features @ head.weight.T.to(device)
    statistics = ClassStatistics(asked.classes, asked.features).update(bank[:10_000], labels[:10_000])
    nci = NCI(1e-3).fit(statistics, head).on(device)  # as for all blocks of a run
    split = FeatureSplit.of(bank.to(device), torch.zeros(asked.bank, 1, device=device), labels.to(device))
    knn, msp = KNN(min(50, asked.bank)).fit(split, head), MSP().fit(None, head)
    by_faiss = device.type == "cpu" and find_spec("faiss") is not None
    faiss = KNN(knn.K, "faiss").fit(split, head) if by_faiss else knn
    few = slice(0, min(asked.samples, 8 * QUERY_ROWS))

    def waited(result: torch.Tensor) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        assert len(result)

    count = len(features[few])
    scans = -(-count // QUERY_ROWS)
    gigabytes = {
        "copy": 2 * 4 * features.numel() / 1e9,
        "nci": 4 * (features.numel() + logits.numel()) / 1e9,
        "msp": 4 * logits.numel() / 1e9,
        "knn": 4 * asked.features * (count + scans * asked.bank) / 1e9,
    }
    sizes = {name: getattr(asked, name) for name in ("samples", "bank", "features", "classes")}

    def report(seconds: Mapping[str, float]) -> dict[str, Any]:
        rates = {name: size / seconds[name] for name, size in gigabytes.items()}
        numbers = {f"{name}_GB_per_s": rate for name, rate in rates.items()}
        numbers.update({f"{name}_over_copy": rates[name] / rates["copy"] for name in rates if name != "copy"})
        numbers["knn_images_per_second"] = count / seconds["knn"]
        numbers["knn_TFLOP_per_s"] = 2 * count * asked.bank * asked.features / 1e12 / seconds["knn"]
        if by_faiss:
            numbers["knn_by_faiss_over_blocks"] = seconds["faiss"] / seconds["knn"]
        return {"device": asked.device, "sizes": sizes, **numbers, **gpu_peak(device)}

    def so_far(seconds: Mapping[str, float]) -> None:
        keep(report(seconds), asked.json)

    sides = {
        "copy": lambda: waited(features.clone()),
        "nci": lambda: waited(nci.score(features, logits)),
        "msp": lambda: waited(msp.score(features, logits)),
        "knn": lambda: waited(knn.score(features[few], logits[few])),
        **({"faiss": lambda: waited(faiss.score(features[few], logits[few]))} if by_faiss else {}),
    }
    publish(report(in_turn(sides, asked.rounds, so_far=so_far)), asked.json)


if __name__ == "__main__":
    main()
