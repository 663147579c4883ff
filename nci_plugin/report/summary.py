"""The beginning of the page: what was tested, and what it says in sentences made by rule.

The rules, all of them:

1. A detector leads in a group where none is shown to be better (DeLong and Holm, 5 %): its range of ranks begins at 1.
   Those are named by their mean AUROC, best first; where they are more than half, the highest mean and those that are
   shown to be worse; where they are all, the highest and the lowest mean. Without ranks the highest mean is named, and
   that nothing is known of chance.
2. Of the collapse: the mean over networks of each property's metric beside its value at collapse, and in each group
   the property whose score has the highest mean AUROC.
3. Not comparable: detectors whose settings were chosen on OOD images with those that saw none, detectors that lack a
   network, rows of different versions or devices, rows whose origin is not recorded, and the two sides of FPR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nci_plugin.benchmarks.benchmark import GROUP_ROWS, OOD_VALIDATION
from nci_plugin.evaluation.identity import unrecorded
from nci_plugin.evaluation.results import SETTINGS, Result
from nci_plugin.report.names import display_name
from nci_plugin.report.tables import data_sets, mean_aurocs

if TYPE_CHECKING:  # torch, which a page without a diagnosis does without
    from nci_plugin.diagnosis.explanation import Explanation

MOST_NAMES = 6
"""Detectors that a sentence names."""

GLOSSARY = {
    "ID and OOD": "in-distribution images are of the classes that the network was trained on; out-of-distribution"
    " images are of none of them, and a detector should find them",
    "near and far": "near-OOD images resemble the training images and are hard to find; far-OOD images differ at sight",
    "csid": "covariate-shifted ID: the known classes in another style, noise or weather; they count as ID in the"
    " full-spectrum setting and do not take part in the standard one",
    "AUROC": "the chance that a detector ranks an ID image above an OOD image: 50 % is guessing, 100 % is faultless",
    "FPR@95": "the share of ID images that are called OOD when 95 % of the OOD images are found, which is the side that"
    " OpenOOD takes; lower is better. Most papers take the other side, the share of OOD images that are accepted when"
    " 95 % of the ID images are kept",
}
"""Terms of the summary, for a reader who has not met them."""

Ranks = Mapping[str, Mapping[str, str]]
"""Ranks by AUROC, ``3`` or ``2-4``, of one setting, by group and detector."""


def leaders(ranks: Mapping[str, str]) -> list[str]:
    """The detectors to which none is shown to be superior."""
    return [detector for detector, rank in ranks.items() if rank.split("-")[0] == "1"]


def what_was_tested(results: Sequence[Result]) -> str:
    """What was tested on what, in one sentence."""
    here = [result for result in results if result.setting == results[0].setting]
    seeds = list(dict.fromkeys(result.seed for result in here))
    detectors = _count(len({result.detector for result in here}), "detector")
    sizes, sets = {result.dataset: result.n_ood for result in here}, data_sets(here)
    groups = [
        f"{group}-OOD images ({', '.join(f'{name}, {sizes[name]}' for name in sets[group])})"
        for group in GROUP_ROWS
        if group in sets
    ]
    accuracy = float(np.mean([result.acc for result in here]))
    named = f" ({', '.join(seeds)})" if len(seeds) > 1 else ""
    return (
        f"{detectors} tested with {_count(len(seeds), 'network')} trained on {here[0].benchmark}"
        f"{named}: can they tell {here[0].n_id} test"
        f" images of known classes, of which {accuracy:.1f} % are classified right, from {' and from '.join(groups)}?"
    )


def who_leads(results: Sequence[Result], ranks: Ranks) -> str:
    """Rule 1, of rows that have every network; without rows that is said."""
    if not results:
        return "No detector was scored with every network, so none can be said to lead."
    said = []
    for group in GROUP_ROWS:
        means = mean_aurocs(results, group, results[0].setting)
        if not means:
            continue
        best = sorted(means, key=lambda name: -means[name])
        known = ranks.get(group)
        first, last = display_name(best[0]), display_name(best[-1])
        highest, lowest = f"{means[best[0]]:.1f} %", f"{means[best[-1]]:.1f} %"
        leading = [name for name in best if name in set(leaders(known))] if known else best[:1]
        worse = [name for name in best if name not in leading]
        if len(best) == 1:
            text = f"{first} alone was tested ({highest})"
        elif not known:
            text = f"{first} has the highest mean AUROC ({highest})"
        elif len(leading) == 1:
            text = f"{first} leads alone (AUROC {highest})"
        elif not worse:
            text = (
                f"none of the {len(best)} detectors is shown to be better than another; the highest mean AUROC has"
                f" {first} ({highest}), the lowest {last} ({lowest})"
            )
        elif len(leading) > len(worse):
            text = (
                f"which of {len(leading)} detectors leads is not shown; the highest mean AUROC has {first} ({highest});"
                f" of {len(best)} only {_named(worse, means)} {'is' if len(worse) == 1 else 'are'} shown to be worse"
                " than another"
            )
        else:
            text = (
                f"{len(leading)} of {len(best)} detectors lead, for none is shown to be better (AUROC in percent):"
                f" {_named(leading, means)}"
            )
        said.append(f"{group}-OOD: {text}")
    ending = "" if ranks or len({each.detector for each in results}) == 1 else "; which of it is chance is not known"
    return f"{'; '.join(said)}{ending}."


def what_collapse_says(explanation: Explanation | None) -> str:
    """Rule 2; where no collapse was measured that is said, and where no OOD set is there its first sentence stands."""
    if explanation is None:
        return "It was not measured: nci-ood diagnose measures it."
    rows = explanation.properties
    metrics = {
        (row.property, row.at_collapse): [value for value in row.metric if value is not None]
        for row in rows
        if row.property != "NC5"  # of each group of OOD sets, not of the network
    }
    known = [f"{name} {np.mean(values):.3g} ({_ideal(at)})" for (name, at), values in metrics.items() if values]
    best = []
    for group in dict.fromkeys(row.group for row in rows):
        aurocs = {row.score: [v for v in row.auroc if v is not None] for row in rows if row.group == group}
        means = {score: float(np.mean(v)) for score, v in aurocs.items() if len(v) == explanation.checkpoints}
        if means:
            score = max(means, key=lambda name: means[name])
            best.append(f"{display_name(score)} {group} ({means[score]:.1f} %)")
    if not known:
        return next(iter(explanation.sentences), "Nothing could be said of it.")
    ending = f"; of the collapse scores the highest mean AUROC has {' and '.join(best)}" if best else ""
    return f"Mean over {_count(explanation.checkpoints, 'network')}: {', '.join(known)}{ending}."


def not_comparable(results: Sequence[Result], whole: Sequence[Result]) -> str:
    """Rule 3."""
    said = []
    chosen = list(dict.fromkeys(each.detector for each in results if OOD_VALIDATION in each.chosen_by))
    everyone = {each.detector for each in results}
    if chosen and len(chosen) < len(everyone):
        said.append(
            f"{len(chosen)} of {len(everyone)} detectors had their settings chosen on OOD validation images, the others"
            " saw none"
        )
    left_out = sorted(everyone - {each.detector for each in whole})
    if left_out:
        said.append(f"no mean is there of {_named(left_out)}, which lack a network")
    for field in ("nci_plugin", "torch", "device"):
        values = sorted({str(each.provenance[field]) for each in results if field in each.provenance})
        if len(values) > 1:
            said.append(f"rows differ in {field} ({', '.join(values)})")
    missing = unrecorded([each.provenance for each in results])
    said += [missing] if missing else []
    if len({each.setting for each in results}) == len(SETTINGS):
        said.append("standard and full-spectrum numbers are about different ID images")
    said.append("FPR@95 is on OpenOOD's side, not on that of most papers")
    return f"{'; '.join(said)}."


def _ideal(at_collapse: float | None) -> str:
    return "out of reach at collapse" if at_collapse is None else f"at collapse {at_collapse:g}"


def _named(detectors: Sequence[str], means: Mapping[str, float] | None = None) -> str:
    names = [display_name(each) + (f" {means[each]:.1f}" if means else "") for each in detectors[:MOST_NAMES]]
    more = len(detectors) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
