"""Scores of whole splits, by blocks that are the same whatever the number of processes and the device."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import CPU, Detector
from nci_plugin.evaluation.contestant import check_scores
from nci_plugin.features.processes import ALONE, Processes
from nci_plugin.features.split import CHUNK_ROWS, Chunk, FeatureSplit

PROBE_ROWS, SAME = 8, 1e-5
"""Rows that every process scores, and how far the scores may differ, relative to the larger of 1 and the score."""

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)

logger = logging.getLogger(__name__)


def score_split(
    detector: Detector, split: FeatureSplit, processes: Processes = ALONE, device: torch.device = CPU
) -> NDArray[np.floating]:
    """Scores (n,) of a split; raises PluginError on those that no metric can rank (see `check_scores`)."""
    return score_splits(detector, {"": split}, processes, device)[""]


def score_splits(
    detector: Detector, splits: Mapping[str, FeatureSplit], processes: Processes = ALONE, device: torch.device = CPU
) -> dict[str, NDArray[np.floating]]:
    """Scores (n,) by split, in all processes; raises PluginError as `score_split`.

    The blocks are the same whatever the number of processes, to which they are dealt out in turn, and so are the bits.
    """
    blocks = [(name, chunk) for name, split in splits.items() for chunk in split.chunks()]
    given, what = detector.get_hyperparameters(), _work(detector)

    def share() -> dict[str, Tensor]:
        mine = [blocks[number][1] for number in processes.share(len(blocks))]
        return {what: scores_on(device, detector, mine)} if mine else {}

    answers = processes.together(share)
    parts: dict[str, list[NDArray[np.floating]]] = {name: [] for name in splits}
    at = [0] * len(answers)
    for number, (name, chunk) in enumerate(blocks):
        rank = number % len(answers)
        parts[name].append(_of(answers, rank, what)[at[rank] : at[rank] + len(chunk)].numpy())
        at[rank] += len(chunk)
    return {name: check_scores(np.concatenate(each), detector.name, given) for name, each in parts.items()}


def scores_on(device: torch.device, detector: Detector, blocks: Iterable[Chunk]) -> Tensor:
    """Scores of some blocks, computed on ``device`` and copied to the CPU once.

    Where its memory runs out the blocks are halved from there on, and a line says so.
    """
    device = detector.runs_on(device)
    detector = detector.on(device)  # once, not for every block
    scores: list[Tensor] = []
    most = CHUNK_ROWS
    for block in blocks:
        start = 0
        while start < len(block):
            part = block.rows(start, start + most)
            try:
                scores.append(detector.score(part.features.to(device), part.logits.to(device)))
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not ran_out(error):
                    raise
                most = len(part) // 2
                logger.warning(
                    "detector '%s': the memory of %s ran out, it goes on in blocks of %d rows",
                    *(detector.name, device, most),
                )
                continue
            start += len(part)
    return torch.cat(scores).cpu()


def ran_out(error: Exception) -> bool:
    """Whether memory ran out: libraries of a GPU and the CPU's allocator say so in the text of a RuntimeError alone."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or bool(OUT_OF_MEMORY.search(str(error)))


def _work(detector: Detector) -> str:
    return f"{detector.name} {detector.get_hyperparameters()}"


def _of(answers: Sequence[Mapping[str, Tensor]], rank: int, what: str) -> Tensor:
    """The answer of a process; raises RuntimeError if it is at other work, as after an error that it alone had."""
    if what not in answers[rank]:
        raise RuntimeError(f"process {rank} did not score {what} with this one; run the same command again")
    return answers[rank][what]


def check_same_fit(detector: Detector, split: FeatureSplit, processes: Processes, device: torch.device) -> None:
    """Raise PluginError where what processes learned differs, as from random numbers: their blocks would not match."""
    if processes.size == 1:
        return
    rows, what = split.rows(0, PROBE_ROWS), _work(detector)
    answers = processes.together(lambda: {what: scores_on(device, detector, [rows])})
    for rank in range(1, processes.size):
        found, first = (_of(answers, each, what) for each in (rank, 0))
        if not torch.allclose(found, first, rtol=SAME, atol=SAME, equal_nan=True):
            raise PluginError(
                f"detector '{detector.name}': process {rank} fitted it otherwise than process 0, as one that draws"
                " random numbers; evaluate it by one process"
            )
