"""What the leaderboard calls a run's network and detectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nci_plugin.checks import PluginError
from nci_plugin.evaluation.run import Run
from nci_plugin.leaderboard.board import BOARDS, Board

ALIASES = {
    "temp_scaling": "TempScale",
    "temperaturescaling": "TempScale",
    "klmatching": "KLM",
    "mahalanobis": "MDS",
    "rmd": "RMDS",
    "mds_ensemble": "MDSEns",
    "pscore": "pScore",
    "feature_norm": "FeatureNorm",
    "mds_pp": "MDS++",
    "rmds_pp": "RMDS++",
}
"""The leaderboard's names of detectors, where they are not the name here in another spelling."""

TRAININGS = {r"_base_|_imagenet1k_v\d$": "CrossEntropy"}
DESCRIPTIONS = {
    r"_e(\d+)_": r"\1 epochs",
    r"_tvsv1_|_imagenet1k_v1$": "torchvision ckpt",
    r"_tvsv(\d)_|_imagenet1k_v(\d)$": r"torchvision ckpt v\1\2",
}
"""What OpenOOD's names of directories and checkpoints say; the first pattern that is found counts."""


def check_submittable(run: Run) -> None:
    """Raise PluginError if the leaderboard has no board of a run's benchmark."""
    if run.benchmark not in BOARDS:
        raise PluginError(
            f"results '{run.path}': are of '{run.benchmark}', which is no benchmark of OpenOOD's leaderboard"
            f" ({', '.join(BOARDS)}); its numbers stand only beside each other: nci-ood leaderboard rank {run.path}"
        )


@dataclass(frozen=True)
class Network:
    """What the leaderboard says of a network."""

    training: str
    arch: str
    description: str
    outlier_data: str


def name_network(
    run: Run,
    board: Board,
    training: str | None = None,
    arch: str | None = None,
    description: str | None = None,
    outlier_data: bool = False,
) -> Network:
    """The board's names of a run's network: those given, else what its provenance says.

    Architecture: the network's factory, in the board's spelling. Training and description: the names of the results
    directory and of the checkpoint and its directories, if they are named as OpenOOD names them.

    Raises PluginError about what can neither be told nor was given.
    """
    provenance = run.results[0].provenance
    checkpoint = Path(str(provenance.get("checkpoint", "")))
    names = [run.path.resolve().name, *(part.name for part in checkpoint.parents), f"_{checkpoint.stem}"]
    factory = str(provenance.get("network_factory", ""))
    arch = arch or _spelling(re.sub(r"_\d+x\d+$", "", factory.rpartition(":")[2]), board.architectures(run.benchmark))
    training = training or _said(TRAININGS, names)
    description = _said(DESCRIPTIONS, names) if description is None else description
    for option, what, value in (
        ("--arch-name", f"the network '{factory or 'unknown'}' is on no row of {run.benchmark}'s boards", arch),
        ("--training", "the names of results and checkpoint do not say how the network was trained", training),
        ("--description", "the names of results and checkpoint say neither epochs nor source", description),
    ):
        if value is None:
            raise PluginError(f"results '{run.path}': {what}; pass {option}")
    return Network(str(training), str(arch), str(description), "Yes" if outlier_data else "No")


def alias(detector: str, known: Sequence[str]) -> str:
    """The leaderboard's name of a detector: one of the ``known`` in another spelling, else its own in capitals."""
    name = detector.rpartition(":")[2]
    return ALIASES.get(name) or _spelling(name, known) or name.replace("_", "-").upper()


def link(detector: str) -> str:
    """The paper of a detector, empty where none is known."""
    from nci_plugin.config import detector_names, load_detector  # torch: a detector's class names its paper

    if detector not in detector_names():  # OpenOOD's own, and those under a name of the user's
        return ""
    paper = load_detector(detector).detector.paper
    return paper.url if paper.year else ""


def _spelling(name: str, known: Sequence[str]) -> str | None:
    return {_plain(each): each for each in known}.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def _said(patterns: Mapping[str, str], names: Sequence[str]) -> str | None:
    for name in names:
        for pattern, text in patterns.items():
            found = re.search(pattern, name)
            if found:
                return found.expand(text)
    return None
