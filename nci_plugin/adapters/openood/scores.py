"""The score files of OpenOOD's ``--save-score``. They are written here and never unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, TEST, Split
from nci_plugin.evaluation.directory import ResultsDirectory, make_way, read_npz
from nci_plugin.evaluation.results import PREDICTIONS
from nci_plugin.files import digest, read_file, write_atomically

MARK = b"written by nci_plugin"
"""Stands behind the pickle, where no reader looks, so that a file of ours is known without unpickling it.

The hash of the pickle follows. Anyone can write both: they say that a file is as it was written, not by whom.
"""

SCORE_BYTES = 2**31
"""More than any score file has: a sample takes some 100 bytes."""

PROTOCOL = 4
"""The highest whose arrays, pickled with numpy 2, can be read with numpy 1.26."""


def scores_file(scores: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray]) -> bytes:
    """One detector's ``Evaluator.scores``, pickled, from its scores (n,) by split.

    ``answers`` holds ``<split>/predictions`` and ``<split>/labels`` (n,). Each split is [predictions, scores, labels];
    those that the evaluator keeps no scores of are None.
    """

    def group(name: str) -> dict[str, str]:
        return {Split.parse(split).name: split for split in scores if Split.parse(split).group == name}

    def triple(split: str) -> list[np.ndarray]:
        return [answer(split, "predictions"), scores[split], answer(split, "labels")]

    def answer(split: str, kind: str) -> np.ndarray:
        return answers[f"{split}/{kind}"].astype(int)

    def tensors(kind: str) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(answer(split, kind)) for name, split in group(CSID).items()}

    content: dict[str, Any] = {
        "id": {"train": None, "val": None, "test": triple(TEST)},
        "csid": {name: triple(split) for name, split in group(CSID).items()},
        "ood": {
            "val": None,
            **{ood: {name: triple(split) for name, split in group(ood).items()} for ood in (NEAR, FAR)},
        },
        "id_preds": torch.from_numpy(answer(TEST, "predictions")),
        "id_labels": torch.from_numpy(answer(TEST, "labels")),
        "csid_preds": tensors("predictions"),
        "csid_labels": tensors("labels"),
    }
    pickled = pickle.dumps(content, PROTOCOL)
    return pickled + MARK + digest(pickled).encode()


def write_scores(directory: ResultsDirectory, seed: str, scores: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write ``<seed>/scores/<detector>.pkl`` beside the scores of each detector, by split, of one network.

    OpenOOD's own files have the same names: they are moved aside.
    """
    answers = read_npz(directory.scores_file(PREDICTIONS, seed), "predictions", "evaluate again")
    for detector, by_split in scores.items():
        path = directory.scores_file(detector, seed).with_suffix(".pkl")
        if path.exists() and not is_ours(read_file(path, "output", SCORE_BYTES, "move it away")):
            make_way(path)
        write_atomically(path, scores_file(by_split, answers), durable=False)


def is_ours(content: bytes) -> bool:
    """Whether `scores_file` made these bytes, of this version or an earlier one, which wrote no hash."""
    return content.endswith(MARK) or is_whole(content)


def is_whole(content: bytes) -> bool:
    """Whether these are the very bytes that `scores_file` made: the hash at their end is that of the pickle."""
    pickled, mark, stated = content.rpartition(MARK)
    return bool(mark) and stated == digest(pickled).encode()
