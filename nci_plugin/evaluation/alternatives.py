"""What every OOD set at hand would have chosen in a search, and the AUROC that its choice gives (arXiv 2602.05935).

A hyper-parameter is searched on one OOD validation set that somebody picked. While the search goes, the near- and
far-OOD test sets are scored too, so the same search can be read off with any of them in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import FAR, NEAR, OOD_VALIDATION, TEST, Source, Split
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError, check_number
from nci_plugin.metrics import auroc
from nci_plugin.parsing import typed

if TYPE_CHECKING:  # the report reads what was recorded, without torch
    from nci_plugin.features.split import FeatureSplit

logger = logging.getLogger(__name__)

ALTERNATIVES = "alternatives"
"""Field of a result's provenance that holds `Alternative`s by OOD set."""

VALIDATED_ON = "ood_validation"
"""Field that says which OOD set the search was made on."""

SEARCHED = "search of"
"""How the ``chosen_by`` of a row begins whose hyper-parameters were searched."""

MOST_ROWS = 1000
"""Rows of a split that are scored for every value, evenly spaced: as many as OpenOOD's validation sets mostly have."""


Percent = Optional[float]


@dataclass(frozen=True)
class Alternative:
    """The values that an OOD set would have chosen, and the mean AUROC in percent of near and far sets with them."""

    values: Mapping[str, Any]
    near: Percent
    far: Percent


@dataclass
class Alternatives:
    """AUROCs of every value that a search tried: ``splits`` are those of the bank, by name."""

    splits: Mapping[str, FeatureSplit]
    _tried: list[tuple[Mapping[str, Any], dict[str, float], dict[str, float | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tested = (name for name in self.splits if name == TEST or Split.parse(name).is_ood)
        self.splits = {name: thinned(self.splits[name]) for name in tested}

    def add(
        self,
        values: Mapping[str, Any],
        id_scores: NDArray[np.floating],
        validated: float,
        score: Callable[[FeatureSplit], NDArray[np.floating]],
    ) -> None:
        """A value with the scores of ``id/val``, the AUROC of the search itself, and what scores one of `splits`.

        A value that fails on a test set is left out, and a line says so: it may still be the best of ``ood/val``, as
        without this, and if it is, its failure there is the detector's.
        """
        try:
            scores = {name: score(split) for name, split in self.splits.items()}
        except Exception as error:  # of a detector of the user's, whatever that raises
            logger.warning("what other OOD sets would have chosen is not known for %s: %s", dict(values), error)
            return
        sets = [name for name in scores if name != TEST]
        chosen = {OOD_VALIDATION: validated, **{name: auroc(id_scores, scores[name]) for name in sets}}
        of_group: dict[str, float | None] = {}
        for group in (NEAR, FAR):
            own = [auroc(scores[TEST], scores[name]) for name in sets if Split.parse(name).group == group]
            of_group[group] = 100 * float(np.mean(own)) if own else None
        self._tried.append((values, chosen, of_group))

    def record(self) -> dict[str, Any]:
        """`Alternative`s by OOD set, the set of the search first, as a row's provenance takes them."""
        found = {}
        for name in self._tried[0][1] if self._tried else ():
            values, _, of_group = max(self._tried, key=lambda each: each[1][name])  # the first of equals, as there
            found[name] = asdict(Alternative(values, of_group[NEAR], of_group[FAR]))
        return found


def described(source: Source) -> str:
    """Which images a split is of: an image list's path, a folder's, else what kind of source it is."""
    if isinstance(source, ImageList):
        return source.imglist_path
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__


def read_alternatives(provenance: Mapping[str, Any]) -> dict[str, Alternative]:
    """What `Alternatives.record` wrote into a row's provenance, empty where nothing.

    Raises PluginError on anything else.
    """
    where = f"result: '{ALTERNATIVES}'"
    try:
        found: dict[str, Alternative] = typed(Mapping[str, Alternative], provenance.get(ALTERNATIVES, {}), where)
        for value in (value for each in found.values() for value in (each.near, each.far) if value is not None):
            check_number(f"{where}: an AUROC", value, least=-1, most=101)
    except PluginError as error:
        raise PluginError(f"{error}; evaluate again") from None
    return found


def thinned(split: FeatureSplit) -> FeatureSplit:
    """Every so manyth row of a split, at most `MOST_ROWS`; nothing is copied."""
    from nci_plugin.features.split import Chunk, FeatureSplit

    step, start, parts = -(-len(split) // MOST_ROWS), 0, []
    for shard in split.shards:
        rows = slice(-start % max(step, 1), None, max(step, 1))
        part = Chunk(shard.features[rows], shard.logits[rows], shard.labels[rows])
        parts += [part] * (len(part) > 0)
        start += len(shard)
    return FeatureSplit(parts)
