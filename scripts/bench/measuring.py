"""What the measuring scripts share: their options, sides timed in turn, and where a report goes.

A report is a mapping. Its numbers at the top level are results, which `bench.sh` shows in its table, named for what
they are: ``a_over_b`` is a ratio, others end in their unit. What is nested (sizes, single times) is detail.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nci_plugin.files import write_atomically

DIGITS = 5
"""Significant digits of a number in a report."""


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """The options that every script has: ``--json`` and ``--seed``."""
    made = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="PATH", help="also write the report to this file")
    made.add_argument("--seed", type=int, default=0, help="of all random numbers (0)")
    return made


def publish(report: Mapping[str, Any], path: Path | None) -> None:
    """Print a report as one line of JSON, and write it to ``path``, whole or not at all."""
    print(json.dumps(_rounded(report)))
    keep(report, path)


def keep(report: Mapping[str, Any], path: Path | None) -> None:
    """Write a report to ``path``; of a part that is ended at its time limit, what is there so far counts."""
    if path is not None:
        write_atomically(path, f"{json.dumps(_rounded(report))}\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value


def in_turn(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    so_far: Callable[[dict[str, float]], object] = lambda _: None,
) -> dict[str, float]:
    """Median seconds of each side by a ``clock``, measured in turn after one round that warms up.

    Each round begins with another side, so that none always follows the same one. ``so_far`` is called with the medians
    after each but the last.
    """

    def medians() -> dict[str, float]:
        return {name: statistics.median(each[1:]) for name, each in seconds.items()}

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        first = number % len(sides)
        for name in [*sides][first:] + [*sides][:first]:
            seconds[name].append(timed(sides[name], clock)[0])
        if 0 < number < rounds:
            so_far(medians())
    return medians()


def timed(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Seconds that ``work`` took, and what it returned."""
    started = clock()
    result = work()
    return clock() - started, result


@contextmanager
def counted(network: Any) -> Iterator[list[int]]:
    """Collects the number of images of every forward pass of a network."""
    passes: list[int] = []
    handle = network.register_forward_pre_hook(lambda _, images: passes.append(len(images[0])))
    try:
        yield passes
    finally:
        handle.remove()


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)  # kilobytes, but bytes on macOS


def gpu_peak(device: Any) -> dict[str, float]:
    """What torch held at most on a GPU so far, as a number of a report; empty for another device."""
    import torch

    return {"gpu_peak_MB": torch.cuda.max_memory_allocated(device) / 2**20} if device.type == "cuda" else {}


def private_mb() -> float:
    """RssAnon of this process: memory that is its own, and no page of a file. Linux alone."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


class PrivatePeak:
    """``most_mb`` is the largest `private_mb` that was seen inside, looked at every 20 ms."""

    def __enter__(self) -> PrivatePeak:
        self.most_mb, self._end = private_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self.most_mb = max(self.most_mb, private_mb())
