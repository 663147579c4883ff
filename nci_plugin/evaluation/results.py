"""One typed row for each (detector, setting, data set, seed), stored as one JSON line; summaries over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pandas as pd

from nci_plugin.checks import PluginError, check_choice, check_number, check_row_name, errors_begin, shown
from nci_plugin.files import read_text
from nci_plugin.metrics import METRIC_COLUMNS, OODMetrics
from nci_plugin.parsing import checked_line, read_checked_line, typed

SETTINGS = ("ood", "fsood")
METRICS = {"fpr95": "FPR@95", "auroc": "AUROC", "aupr_in": "AUPR_IN", "aupr_out": "AUPR_OUT", "acc": "ACC"}
"""Fields of a Result and the names of their columns in OpenOOD's tables and CSV, whatever other metrics there are."""

OTHER_METRICS = {
    field.name: METRIC_COLUMNS[field.name].label for field in fields(OODMetrics) if field.name not in METRICS
}
"""Fields that OpenOOD's tables do not have."""

RESULTS_BYTES = 2**28
"""The largest results.jsonl: a hundred times that of every detector on ImageNet with three seeds."""

DATA_SET_GROUPS = ("near", "far")
ROUNDING = 1e-6
"""Percent that a metric may lie outside 0..100: areas are sums of rounded terms."""


Percent = Optional[float]


@dataclass(frozen=True)
class Result:
    """Metrics in percent of one detector on one data set (or the mean of a group) with one seed's network.

    ``setting`` is ``ood`` or ``fsood`` (covariate-shifted samples count as ID). ``hyperparameters`` were chosen as
    ``chosen_by`` says; ``seconds`` of fit, search and score are those of the detector over all splits; ``provenance``
    holds versions, fingerprints, configuration and device. ``fpr_at_id_tpr95`` is None in rows of earlier versions. All
    metrics are those of `OODMetrics`, and ``acc`` is the ID accuracy.
    """

    benchmark: str
    detector: str
    setting: str
    group: str
    dataset: str
    seed: str
    fpr95: float
    auroc: float
    aupr_in: float
    aupr_out: float
    acc: float
    n_id: int
    n_ood: int
    hyperparameters: Mapping[str, Any]
    chosen_by: str
    seconds: Mapping[str, float]
    provenance: Mapping[str, Any]
    fpr_at_id_tpr95: Percent = None

    def __repr__(self) -> str:
        of = ", ".join(filter(None, (self.detector, self.setting, f"{self.group}/{self.dataset}", self.seed)))
        return f"Result({of}: AUROC {self.auroc:.2f}, FPR@95 {self.fpr95:.2f})"

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.detector, self.setting, self.dataset, self.seed

    def to_json(self) -> str:
        """One line of JSON, with a checksum of all the rest."""
        return checked_line(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Result:
        """Parse what `to_json` wrote; raises PluginError on anything else. A line without a checksum is not checked."""
        try:
            raw, unchanged = read_checked_line(line)
            result: Result = typed(cls, raw, "result")
            if unchanged is False:
                raise PluginError("its checksum differs: it was changed since")
        except (ValueError, RecursionError, PluginError) as error:
            raise PluginError(f"result: not a line that this version wrote ({error}); evaluate again") from None
        result.check()
        return result

    def check(self) -> None:
        """Raise PluginError on a name that is no name of a file, or a number out of its range."""
        for what in ("benchmark", "detector", "dataset", "seed"):
            if what != "seed" or self.seed:  # that of a single network is empty
                check_row_name(f"result: {what}", getattr(self, what))
        check_choice("result: setting", self.setting, SETTINGS)
        check_choice("result: group", self.group, DATA_SET_GROUPS)
        for metric in (*METRICS, *OTHER_METRICS):
            value = getattr(self, metric)
            if value is not None and not -ROUNDING <= value <= 100 + ROUNDING:  # false for NaN
                raise PluginError(f"result: '{metric}' must be 0 to 100, got {shown(value)}; evaluate again")
        for count in ("n_id", "n_ood"):
            check_number(f"result: {count}", getattr(self, count), above=0, whole=True)
        for phase in PHASES:
            check_number(f"result: seconds of {phase}", self.seconds.get(phase), least=0)


PHASES = ("fit", "search", "score")


def read_results(path: Path) -> list[Result]:
    """All rows of a JSON-lines file; raises PluginError naming the line that cannot be read."""
    results = []
    text = read_text(path, "results", RESULTS_BYTES, "evaluate again, or move it away")
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        with errors_begin(f"results '{path}' line {number}"):
            results.append(Result.from_json(line))
    return results


def is_over_seeds(results: Sequence[Result]) -> bool:
    """Whether results are of the networks s0, s1, ... and not of a single one."""
    return any(result.seed for result in results)


def complete(results: Sequence[Result]) -> list[Result]:
    """The results of the detectors that were scored for every seed: a mean over fewer would be another number."""
    seeds = {result.seed for result in results}
    scored: dict[str, set[str]] = {}
    for result in results:
        scored.setdefault(result.detector, set()).add(result.seed)
    return [result for result in results if scored[result.detector] == seeds]


PREDICTIONS = "predictions"
"""The file beside those of the detectors' scores: no detector may have its name."""


def file_name(detector: str) -> str:
    """A detector's name as a file name: adapters' names hold a colon."""
    return detector.replace(":", "_")


def check_file_names(names: Iterable[str]) -> None:
    """Raise PluginError where two detectors, or one of them and the predictions, would share a file on some system."""
    files: dict[str, str] = {PREDICTIONS: ""}
    for name in names:
        other = files.setdefault(file_name(name).lower(), name)
        if other != name:
            taken = f"detector '{other}' has" if other else "the network's predictions have"
            raise PluginError(f"detector '{name}': {taken} a file of the same name; rename it")


def table(results: Sequence[Result], detector: str, setting: str) -> pd.DataFrame:
    """OpenOOD's table of one detector: rows near sets, nearood, far sets, farood; cells are arrays over seeds."""
    chosen = [result for result in results if (result.detector, result.setting) == (detector, setting)]
    rows = list(dict.fromkeys(result.dataset for result in chosen))
    cells = {
        METRICS[metric]: [np.array([getattr(r, metric) for r in chosen if r.dataset == row]) for row in rows]
        for metric in METRICS
    }
    return pd.DataFrame(cells, index=rows)


def formatted(values: np.ndarray, over_seeds: bool, between: str = " ± ") -> str:
    """``mean ± std`` (population) over training seeds, or one number; two decimals, as OpenOOD prints them."""
    return f"{values.mean():.2f}{between}{values.std():.2f}" if over_seeds else f"{values.mean():.2f}"


def to_csv(results: Sequence[Result], detector: str, setting: str, over_seeds: bool) -> str:
    """The CSV of OpenOOD's eval_ood.py (``over_seeds``: s0, s1, ...) or of its eval_ood_imagenet.py (one network)."""
    cells = table(results, detector, setting)
    return cells.apply(lambda column: column.map(lambda values: formatted(values, over_seeds))).to_csv()
