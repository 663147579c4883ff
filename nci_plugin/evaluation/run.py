"""The rows of one stored run, as what draws, compares and submits them takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nci_plugin.benchmarks.benchmark import GROUP_ROWS
from nci_plugin.checks import PluginError, check_known
from nci_plugin.evaluation import identity
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.results import Result, complete


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
    def seeds(self) -> list[str]:
        """Of its networks, an empty text alone for a single one."""
        return list(dict.fromkeys(result.seed for result in self.results))

    @property
    def detectors(self) -> list[str]:
        return list(dict.fromkeys(result.detector for result in self.results))

    @property
    def settings(self) -> list[str]:
        """Those that complete detectors were scored in."""
        return list(dict.fromkeys(result.setting for result in self.rows()))

    @property
    def incomplete(self) -> list[str]:
        """Detectors that were not scored for every seed: their mean would be another number."""
        whole = {result.detector for result in complete(self.results)}
        return [name for name in self.detectors if name not in whole]

    @property
    def unrecorded(self) -> str:
        """What the rows do not record of where they came from, in words; empty where nothing is missing."""
        return identity.unrecorded([result.provenance for result in self.results])

    def select(self, detectors: Sequence[str] | None = None) -> list[str]:
        """The detectors asked for (None: every complete one); raises PluginError on unknown and incomplete ones."""
        for name in detectors or ():
            check_known("detector of these results", name, self.detectors)
            self.check_complete(name)
        return list(dict.fromkeys(detectors or (name for name in self.detectors if name not in self.incomplete)))

    def check_complete(self, detector: str) -> None:
        """Raise PluginError on a detector that was not scored for every seed."""
        if detector in self.incomplete:
            raise PluginError(f"detector '{detector}': was not scored for every seed in '{self.path}'; evaluate again")

    def rows(self, detectors: Sequence[str] | None = None) -> list[Result]:
        """The rows of the detectors that `select` gives."""
        chosen = self.select(detectors)
        return [result for result in self.results if result.detector in chosen]

    def group(self, detector: str, setting: str, group: str) -> list[Result]:
        """The rows of a group's mean, one for each seed."""
        wanted = (detector, setting, GROUP_ROWS[group])
        return [each for each in self.results if (each.detector, each.setting, each.dataset) == wanted]

    def line(self, result: Result) -> str:
        """Where a row lies: ``results.jsonl line 7``."""
        return f"{ResultsDirectory(self.path).results_file.name} line {self.results.index(result) + 1}"
