"""What is claimed of the crossing of fn*: it comes before the onset, and foretells it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from significance import SIGNIFICANT, signed_rank, t_interval
from slices import by_condition

from claims.finding import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    PUBLISHED_LEAD,
    PUBLISHED_MAE,
    SUPPORT,
    Finding,
    high,
    interval_text,
    name_of,
    share_of,
    significant,
    untested,
    value_text,
)
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.intervals import LEAST
from nci_plugin.dynamics.predictors import IN_SAMPLE, MEDIAN_ONSET, ONE_CONDITION, Skill

FN, LOSS = "fn* falling", "train loss"
"""The paper's predictor, and the one that its author later found better."""


def precedence(analysis: Analysis) -> Finding:
    claim = (
        f"the crossing of fn below fn* consistently precedes the onset, by {PUBLISHED_LEAD} epochs on average"
        f" (MAE {PUBLISHED_MAE}, both in sample)"
    )
    rule = (
        f"with one condition left out: confirmed where in every group it fires before the onset in {SUPPORT:.0%} of"
        f" runs and the mean leads of conditions are above 0 (Wilcoxon, one side, p < {SIGNIFICANT:g}); not confirmed"
        " where in some group less than half are before it or the interval of the mean lead lies below 0"
    )
    found = _skills(analysis, FN, ONE_CONDITION)
    if not found:
        return untested(claim, rule, f"no group has {LEAST} runs with an onset")
    p = max(_leads(analysis, each) for each in found)
    good = all(share_of(each.before) >= SUPPORT for each in found) and significant(p)
    bad = [share_of(each.before) < 0.5 or high(each.lead_interval) < 0 for each in found]
    inside = {each.group: each for each in _skills(analysis, FN, IN_SAMPLE)}
    return Finding(
        claim,
        "; ".join(_lead(each, inside[each.group]) for each in found),
        _counts(found),
        "; ".join(f"lead {interval_text(each.lead_interval, '.0f')}" for each in found),
        NOT_CONFIRMED if any(bad) else CONFIRMED if good else CANNOT_TELL,
        rule,
        p,
    )


def _leads(analysis: Analysis, skill: Skill) -> float:
    """That the conditions' mean leads are 0 or less, against more."""
    leads = {each.run: each.lead for each in skill.forecasts if each.lead is not None}
    return signed_rank(list(by_condition(analysis.runs, leads).values()))


def _lead(each: Skill, inside: Skill) -> str:
    """Lead, error and share before the onset with a condition left out, and in sample."""
    return (
        f"{name_of(each.group)}: lead {value_text(each.lead)} (in sample {value_text(inside.lead)}), MAE"
        f" {value_text(each.mae)} ({value_text(inside.mae)}), before the onset in {share_of(each.before):.0%}"
        f" ({share_of(inside.before):.0%}), never fired in {each.silent}, false alarms in {each.false_alarms} of"
        f" {each.censored} runs without an onset"
    )


def predictions(analysis: Analysis) -> list[Finding]:
    """Against knowing nothing, and against the training loss."""
    return [
        _prediction(analysis, MEDIAN_ONSET, "predicts the onset better than knowing nothing but other runs' onsets"),
        _prediction(analysis, LOSS, "predicts the onset better than the training loss"),
    ]


def _prediction(analysis: Analysis, rival: str, text: str) -> Finding:
    """|predicted - onset| of fn* less that of a rival, paired by run, and false alarms, one condition left out."""
    claim = f"fn* {text}"
    rule = (
        "with one condition left out, |predicted - onset| of fn* less the rival's, paired by run, means of conditions:"
        f" confirmed where it is below 0 in every group (Wilcoxon, one side, p < {SIGNIFICANT:g}) and fn* has no more"
        " false alarms in runs without an onset, not confirmed where it is above 0 in the same way or has more false"
        " alarms in some group, or is below in none"
    )
    pairs, alarms = [], []
    rivals = {each.group: each for each in _skills(analysis, rival, ONE_CONDITION)}
    for each in _skills(analysis, FN, ONE_CONDITION):
        if each.group in rivals:
            errors = {one.run: one.error for one in rivals[each.group].forecasts}
            differences = {
                one.run: one.error - other
                for one in each.forecasts
                if one.error is not None and (other := errors.get(one.run)) is not None
            }
            if len(differences) >= LEAST:
                pairs.append((each.group, differences, list(by_condition(analysis.runs, differences).values())))
                alarms.append((each.false_alarms, rivals[each.group].false_alarms, each.censored))
    if not pairs:
        return untested(claim, rule, f"no group has {LEAST} runs in which both fired before or after an onset")
    better = [signed_rank([-value for value in values]) for _, _, values in pairs]
    worse = [significant(signed_rank(values)) for _, _, values in pairs]
    worse += [own > other for own, other, _ in alarms]
    no_better = any(worse) or not any(map(significant, better))
    return Finding(
        claim,
        "; ".join(
            f"{name_of(group)}: {np.mean(values):+.0f} epochs, false alarms {own} (rival {other}) of {censored}"
            for (group, _, values), (own, other, censored) in zip(pairs, alarms)
        ),
        "; ".join(f"{len(values)} conditions, {len(some)} runs" for _, some, values in pairs),
        "; ".join(interval_text(t_interval(values), ".0f") for _, _, values in pairs),
        NOT_CONFIRMED if no_better else CONFIRMED if significant(max(better)) else CANNOT_TELL,
        rule,
        max(better),
    )


def _skills(analysis: Analysis, predictor: str, left_out: str) -> list[Skill]:
    return [
        each for each in analysis.skills if (each.predictor, each.left_out) == (predictor, left_out) and each.n >= LEAST
    ]


def _counts(skills: Sequence[Skill]) -> str:
    return "; ".join(f"{each.n} ({each.censored} censored)" for each in skills)
