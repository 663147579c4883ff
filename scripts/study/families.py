"""Differences of AUROC by family of networks, from the table that docs/nci_without_ood.md prints.

    python scripts/study/families.py docs/nci_without_ood.md

Networks of one family share training and test images, so they do not count as independent: their differences are taken
as correlated by 0.5, and only families as independent of one another. Both intervals are Student's, at 95 %.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t

TITLE = "### AUROC near / far, less that of nci with OpenOOD's alpha"
GROUPS = ("near", "far")

CORRELATION = 0.5
"""Of the differences of two networks of one family; it cannot be estimated from one family."""


@dataclass(frozen=True)
class Mean:
    """A mean difference in points, its 95 % interval, the smallest and the largest difference, and how many."""

    points: float
    low: float
    high: float
    smallest: float
    largest: float
    count: int

    @property
    def differs(self) -> bool:
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return (
            f"{self.points:+.2f} [{self.low:+.2f}, {self.high:+.2f}], {self.smallest:+.2f} to {self.largest:+.2f}"
            f" ({self.count})"
        )


def of_family(differences: Sequence[float]) -> Mean:
    """Of networks of one family; at least two."""
    return _mean(differences, CORRELATION)


def over_families(means: Sequence[float]) -> Mean:
    """Of family means, each an observation; at least two."""
    return _mean(means, 0.0)


def _mean(values: Sequence[float], correlation: float) -> Mean:
    """n values of variance v: their mean has variance v (r + (1 - r) / n), their sample variance s^2 is v (1 - r)."""
    points, variance = float(np.mean(values)), float(np.var(values, ddof=1))
    error = np.sqrt(variance * (correlation / (1 - correlation) + 1 / len(values)))
    half = float(t.ppf(0.975, len(values) - 1) * error)
    return Mean(points, points - half, points + half, min(values), max(values), len(values))


def read_differences(page: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Differences near and far by detector and network that was held out; its family is the name before the ``_``."""
    table = page.split(f"{TITLE}\n")[1].split("\n###")[0].strip().splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, *cells in rows:
        pairs = {network: cell for network, cell in zip(header[1:], cells) if re.fullmatch(r"\w+", network)}
        found[name] = {network: (float(a), float(b)) for network, cell in pairs.items() for a, b in [cell.split(" / ")]}
    return found


def family(network: str) -> str:
    return re.split(r"[\d_]", network)[0]


def report(by_network: Mapping[str, tuple[float, float]]) -> Iterator[tuple[str, list[Mean]]]:
    """Each family near and far, and the mean over families."""
    families = list(dict.fromkeys(map(family, by_network)))
    means = []
    for name in families:
        own = [pair for network, pair in by_network.items() if family(network) == name]
        made = [of_family([pair[place] for pair in own]) for place in range(len(GROUPS))]
        means.append([each.points for each in made])
        yield name, made
    yield "over families", [over_families(column) for column in zip(*means)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="docs/nci_without_ood.md")
    found = read_differences(parser.parse_args().page.read_text(encoding="utf-8"))
    print("| detector, family | near | far |\n|---|---|---|")
    for detector, by_network in found.items():
        for name, made in report(by_network):
            print(f"| `{detector}`, {name} | {made[0]} | {made[1]} |")


if __name__ == "__main__":
    main()
