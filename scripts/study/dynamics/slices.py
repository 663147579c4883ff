"""Slices of runs, in which one condition alone varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nci_plugin.dynamics.conditions import GROUP, SEED, Key, cell, key
from nci_plugin.dynamics.trajectory import Condition, Trajectory


@dataclass(frozen=True)
class Slice:
    """Runs that differ in ``factor`` (and the seed) alone; ``held`` are the conditions that they share."""

    factor: str
    held: Mapping[str, Condition]
    by_level: Mapping[Condition, Sequence[Trajectory]]

    @property
    def runs(self) -> list[Trajectory]:
        return [run for runs in self.by_level.values() for run in runs]


def factors(runs: Sequence[Trajectory]) -> list[str]:
    """Conditions that take more than one value over the runs, without the seed and what makes a group."""
    names = dict.fromkeys(name for run in runs for name in run.conditions if name not in (SEED, *GROUP))
    return [name for name in names if len({run.conditions.get(name) for run in runs}) > 1]


def slices(runs: Sequence[Trajectory], factor: str) -> list[Slice]:
    """Every set of runs in which ``factor`` varies and all other conditions are the same, the largest first."""
    sets: dict[Key, dict[Condition, list[Trajectory]]] = {}
    for run in runs:
        if factor in run.conditions:
            levels = sets.setdefault(key(run, without=(SEED, factor)), {})
            levels.setdefault(run.conditions[factor], []).append(run)
    found = [Slice(factor, dict(held), _ordered(levels)) for held, levels in sets.items() if len(levels) > 1]
    return sorted(found, key=lambda each: -len(each.runs))


def by_condition(runs: Sequence[Trajectory], values: Mapping[str, float]) -> dict[Key, float]:
    """Means over the seeds of each condition, of one value a run by name; runs without a value are left out."""
    cells: dict[Key, list[float]] = {}
    for run in runs:
        if run.run in values:
            cells.setdefault(cell(run), []).append(values[run.run])
    return {each: sum(some) / len(some) for each, some in cells.items()}


def _ordered(levels: Mapping[Condition, list[Trajectory]]) -> dict[Condition, list[Trajectory]]:
    numbers = all(isinstance(level, (int, float)) for level in levels)
    return {level: levels[level] for level in sorted(levels, key=None if numbers else str)}  # type: ignore[type-var]
