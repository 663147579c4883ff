"""Where data and results of a benchmark lie in OpenOOD's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nci_plugin.adapters.openood.checkout import find_checkout, is_checkout
from nci_plugin.evaluation.benchmark_files import benchmark_names, load_benchmark


@dataclass(frozen=True)
class Roots:
    """Directories of OpenOOD's layout: lists and images, and checkpoints and results; the checkout they are in."""

    data: Path
    results: Path
    openood: Path | None = None


def find_roots(name: str, data_root: Path | None = None) -> Roots:
    """Where the data and results of a benchmark lie, by its name or YAML file.

    Shipped benchmarks of OpenOOD's data are looked for in its checkout, if there is one; all others in the working
    directory.
    """
    of_openood = name in benchmark_names() and load_benchmark(name).built_in is None
    checkout = find_checkout() if of_openood else None
    root = checkout or Path()
    data = root / "data"
    if checkout is None and is_checkout(Path.cwd()) and name in benchmark_names():
        # OpenOOD would not download its lists any more if others lay in its data/benchmark_imglist.
        data /= "nci_plugin"
    return Roots(data_root or data, root / "results", checkout)
