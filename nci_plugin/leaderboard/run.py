"""The Results of one evaluation, and what the leaderboard calls its network and detectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nci_plugin.benchmarks.benchmark import GROUP_ROWS
from nci_plugin.checks import PluginError, check_known
from nci_plugin.evaluation import identity
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.results import Result, complete
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


@dataclass(frozen=True)
class Run:
    """The rows of one ``results/<name>/results.jsonl``, all of one benchmark."""

    path: Path
    results: Sequence[Result]

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises PluginError unless there are results of one benchmark."""
        return cls(path, ResultsDirectory(path).read_one_benchmark())

    @property
    def benchmark(self) -> str:
        return self.results[0].benchmark

    @property
    def detectors(self) -> list[str]:
        return list(dict.fromkeys(result.detector for result in self.results))

    @property
    def incomplete(self) -> list[str]:
        """Detectors that were not scored for every seed: their mean would be another number."""
        whole = {result.detector for result in complete(self.results)}
        return [name for name in self.detectors if name not in whole]

    @property
    def unrecorded(self) -> str:
        """What the rows do not record of where they came from, in words; empty where nothing is missing."""
        return identity.unrecorded([result.provenance for result in self.results])

    def select(self, detectors: Sequence[str] | None) -> list[str]:
        """The detectors asked for (None: every complete one); raises PluginError on unknown and incomplete ones."""
        for name in detectors or ():
            check_known(f"detector in '{self.path}'", name, self.detectors)
            if name in self.incomplete:
                raise PluginError(f"detector '{name}': was not scored for every seed in '{self.path}'; evaluate again")
        return list(dict.fromkeys(detectors or (name for name in self.detectors if name not in self.incomplete)))

    def group(self, detector: str, setting: str, group: str) -> list[Result]:
        """The rows of a group's mean, one for each seed."""
        wanted = (detector, setting, GROUP_ROWS[group])
        return [each for each in self.results if (each.detector, each.setting, each.dataset) == wanted]

    def line(self, result: Result) -> str:
        """Where a row lies: ``results.jsonl line 7``."""
        return f"{ResultsDirectory(self.path).results_file.name} line {self.results.index(result) + 1}"

    def check_submittable(self) -> None:
        """Raise PluginError if the leaderboard has no board of this benchmark."""
        if self.benchmark not in BOARDS:
            raise PluginError(
                f"results '{self.path}': are of '{self.benchmark}', which is no benchmark of OpenOOD's leaderboard"
                f" ({', '.join(BOARDS)}); its numbers stand only beside each other: nci-ood leaderboard rank"
                f" {self.path}"
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
