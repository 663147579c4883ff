"""Memory of fitting and scoring KNN, against the number of stored training features (Linux: reads /proc).

    python scripts/bench/neighbours.py [--sizes N ...] [--features P] [--queries N]

Anonymous memory beyond a first small run: pages of the mapped files of features count elsewhere, and the system takes
them back when it needs them. Each size runs in a process of its own, on features stored in a temporary directory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from measuring import parser, publish

CLASSES, SHARD_ROWS, EVERY_SECONDS = 10, 2000, 0.002
DETECTORS = ("knn", "knn_l1")


def store(directory: Path, rows: int, options: argparse.Namespace) -> None:
    """Write ``rows`` random features as an extraction stores them."""
    import torch

    from nci_plugin.features.split import Chunk
    from nci_plugin.features.store import SplitStore

    split, generator = SplitStore(directory), torch.Generator().manual_seed(options.seed)
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        count = min(SHARD_ROWS, rows - start)
        features = torch.rand(count, options.features, generator=generator)
        split.add_shard(number, Chunk(features, torch.zeros(count, CLASSES), torch.zeros(count, dtype=torch.long)))
    split.finish(rows, {})


def grown_mb(directory: Path, options: argparse.Namespace) -> float:
    """MB that fitting and scoring take at most in this process, beyond what the library takes for eight images."""
    import torch

    from nci_plugin.detectors import registry
    from nci_plugin.features.store import SplitStore
    from nci_plugin.networks.head import LinearHead

    torch.set_num_threads(1)
    head = LinearHead(torch.randn(CLASSES, options.features), torch.zeros(CLASSES))
    training = SplitStore(directory).load()
    images = torch.rand(options.queries, options.features), torch.zeros(options.queries, CLASSES)
    for name in DETECTORS:
        registry.create(name).fit(training, head).score(*(rows[:8] for rows in images))
    done, peaks = threading.Event(), [_anonymous_mb()]

    def watch() -> None:
        while not done.wait(EVERY_SECONDS):
            peaks.append(_anonymous_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    for name in DETECTORS:
        detector = registry.create(name).fit(training, head)
        detector.score(*images)
        peaks.append(_anonymous_mb())
    done.set()
    thread.join()
    return max(peaks) - peaks[0]


def _anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--sizes", nargs="+", type=int, default=[20_000, 80_000], metavar="N", help="(20000 80000)")
    made.add_argument("--features", type=int, default=256, metavar="P", help="their width (256)")
    made.add_argument("--queries", type=int, default=512, metavar="N", help="images that are scored (512)")
    made.add_argument("--one", type=Path, metavar="DIR", help="only print the growth of this process")
    options = made.parse_args(arguments)
    if options.one is not None:
        print(grown_mb(options.one, options))
        return
    same = [f"--{name}={getattr(options, name)}" for name in ("features", "queries", "seed")]
    grown = {}
    for rows in options.sizes:
        with tempfile.TemporaryDirectory() as directory:
            store(Path(directory), rows, options)
            command = [sys.executable, __file__, f"--one={directory}", *same]
            grown[rows] = float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    smallest, largest = min(grown), max(grown)
    publish(
        {
            "grown_MB": grown,
            "difference_MB": grown[largest] - grown[smallest],
            "features_difference_MB": 4 * options.features * (largest - smallest) / 2**20,
            "detectors": DETECTORS,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
