"""Everything that some runs say together: onsets, fn*, what foretells the onset, detection along training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nci_plugin.checks import PluginError
from nci_plugin.dynamics.correlations import Correlation, correlations
from nci_plugin.dynamics.detection import BestEpoch, Overtaking, best_epochs, overtakings
from nci_plugin.dynamics.onset import Onset, OnsetRule, find_onset
from nci_plugin.dynamics.predictors import Skill, compare
from nci_plugin.dynamics.reference import Reference, references
from nci_plugin.dynamics.trajectory import Trajectory

VERSION = 1


@dataclass(frozen=True)
class Analysis:
    """The answers of each module about ``runs`` by one rule; ``onsets`` by name of the run."""

    rule: OnsetRule
    runs: Sequence[Trajectory]
    onsets: Mapping[str, Onset]
    references: Sequence[Reference]
    skills: Sequence[Skill]
    best_epochs: Sequence[BestEpoch]
    overtakings: Sequence[Overtaking]
    correlations: Sequence[Correlation]

    def to_dict(self) -> dict[str, Any]:
        """JSON without NaN; of the runs their names and conditions, not their records."""
        answers = ("references", "skills", "best_epochs", "overtakings", "correlations")
        return {
            "version": VERSION,
            "rule": asdict(self.rule),
            "runs": [{"run": run.run, "conditions": dict(run.conditions)} for run in self.runs],
            "onsets": [asdict(onset) for onset in self.onsets.values()],
            **{name: [asdict(each) for each in getattr(self, name)] for name in answers},
        }


def check_names(names: Sequence[str]) -> None:
    """Raise PluginError where two runs have one name."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise PluginError(f"run '{repeated[0]}': there are two of that name; rename a directory, or pass one of them")


def analyse(runs: Sequence[Trajectory], rule: OnsetRule) -> Analysis:
    """Analyse some runs; raises PluginError where two have one name, or one does not log the rule's metric.

    Predictors see the rule's phase alone; detection is over all of a run.
    """
    check_names([run.run for run in runs])
    onsets = {run.run: find_onset(run, rule) for run in runs}
    parts = [run.in_phase(rule.phase) for run in runs] if rule.phase else runs
    return Analysis(
        rule=rule,
        runs=runs,
        onsets=onsets,
        references=references(runs, onsets),
        skills=compare([part for part in parts if part.records], onsets),
        best_epochs=[each for run in runs for each in best_epochs(run)],
        overtakings=[each for run in runs for each in overtakings(run, onsets[run.run], rule.metric)],
        correlations=correlations(runs),
    )
