"""Private memory (RssAnon) of ``evaluate`` against the lines of the training list.

    python scripts/bench/lists.py [--lines N ...] [--features P] [--classes K]

The training list names the same few images again and again. All is done with them as in any run: the list is read and
checked, every file is looked at and hashed, statistics, scores and results are stored. Only the decoding is left out:
every image is zeros. Each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measuring import PrivatePeak, parser, publish, timed

DETECTORS = ["msp", "mls", "ebo", "nci", "pscore", "feature_norm"]
IMAGES, TESTED = 100, 1000


def peak(lines: int, options: argparse.Namespace) -> float:
    """Evaluate on a list of so many lines; returns the peak of this process in MB."""
    import numpy as np
    import torch
    from PIL import Image

    from nci_plugin import Benchmark, ImageList, Preprocessing, evaluate
    from nci_plugin.features import plan, shard_collector

    def zeros(
        name: str, split: Any, size: int, workers: int = 0, pinned: bool = False, starts: Iterable[int] = ()
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in starts:
            labels = split.labels[start : start + size].long()
            yield torch.rand(len(labels), 3, 2, 2, generator=generator), labels

    generator = torch.Generator().manual_seed(options.seed)
    patch.object(plan, "image_batches", zeros).start()
    # As small a share of a short list as of a long one: a shard passes as a whole.
    patch.object(shard_collector, "SHARD_BYTES", 2**18).start()
    preprocessing = Preprocessing(2, 2, ((0.5,) * 3, (0.5,) * 3))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(IMAGES):
            pixels = np.full((2, 2, 3), number, np.uint8)
            Image.fromarray(pixels).save(root / f"an_image_with_a_name_of_some_length_{number:04d}.png")
        for name, count in (("train", lines), ("test", TESTED), ("near", TESTED)):
            with (root / f"{name}.txt").open("w", encoding="utf-8") as file:
                for row in range(count):
                    label = -1 if name == "near" else row % options.classes
                    file.write(f"an_image_with_a_name_of_some_length_{row % IMAGES:04d}.png {label}\n")
        lists = {name: ImageList(f"{name}.txt", "", preprocessing, root) for name in ("train", "test", "near")}
        benchmark = Benchmark.from_splits(
            "lists", options.classes, test=lists["test"], train=lists["train"], near={"near": lists["near"]}
        )
        network = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(12, options.features), torch.nn.ReLU(),
            torch.nn.Linear(options.features, options.classes),
        )  # fmt: skip
        with PrivatePeak() as seen:
            evaluation = evaluate(
                network, benchmark, DETECTORS, data_root=root, output=root / "out", device="cpu", progress=False
            )
        assert not evaluation.failures, evaluation.failures
    return seen.most_mb


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--lines", nargs="+", type=int, default=[10**5, 10**6, 10**7], metavar="N", help="(1e5 1e6 1e7)")
    made.add_argument("--features", type=int, default=64, metavar="P", help="their width (64)")
    made.add_argument("--classes", type=int, default=10, metavar="K", help="classes (10)")
    made.add_argument("--one", type=int, metavar="N", help="only print the peak of this process for one size")
    options = made.parse_args(arguments)
    if options.one is not None:
        print(peak(options.one, options))
        return
    same = [f"--{name}={getattr(options, name)}" for name in ("features", "classes", "seed")]
    peaks, seconds = {}, {}
    for lines in options.lines:
        command = [sys.executable, __file__, f"--one={lines}", *same]
        seconds[lines], done = timed(
            lambda command=command: subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        )
        peaks[lines] = float(done.stdout.splitlines()[-1])
    smallest, largest = min(peaks), max(peaks)
    publish(
        {
            "bytes_a_line": 2**20 * (peaks[largest] - peaks[smallest]) / max(1, largest - smallest),
            "peak_private_MB": peaks,
            "seconds": seconds,
            "detectors": DETECTORS,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
