"""Which runs can be compared: groups, and cells of one condition."""

from __future__ import annotations

from collections.abc import Sequence

from nci_plugin.dynamics.trajectory import Condition, Trajectory

GROUP = ("architecture", "data")
"""Conditions that fn* is said to depend on (arXiv 2604.00230); runs that share them are a group."""

SEED = "seed"
"""The condition that repeats a cell: runs that differ in nothing else."""

Key = tuple[tuple[str, Condition], ...]


def key(run: Trajectory, without: Sequence[str] = ()) -> Key:
    """The conditions of a run by name, but for those named."""
    return tuple(sorted((name, value) for name, value in run.conditions.items() if name not in without))


def cell(run: Trajectory) -> Key:
    """All conditions but the seed."""
    return key(run, without=(SEED,))


def group_of(run: Trajectory) -> tuple[str, ...]:
    """Architecture and data set; ``unknown`` where the run does not say."""
    return tuple(str(run.conditions.get(name, "unknown")) for name in GROUP)


def by_group(runs: Sequence[Trajectory]) -> dict[tuple[str, ...], list[Trajectory]]:
    groups: dict[tuple[str, ...], list[Trajectory]] = {}
    for run in runs:
        groups.setdefault(group_of(run), []).append(run)
    return groups
