"""Collapse along training as tables, from trajectories and their analysis alone."""

from __future__ import annotations

from collections.abc import Sequence

from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.correlations import Correlation
from nci_plugin.dynamics.detection import BASELINE, SCORE, best_over_runs, overtakings_over_runs
from nci_plugin.dynamics.intervals import LEVEL, Interval
from nci_plugin.dynamics.onset import count_outcomes
from nci_plugin.dynamics.predictors import IN_SAMPLE
from nci_plugin.dynamics.trajectory import FN, GROUPS, NC4_TRAIN, Trajectory
from nci_plugin.report.tables import Table

UNKNOWN = "-"

COLLAPSE = {
    "nc1_quotient": "NC1",
    "nc1_pinv": "NC1 pinv",
    "nc1_cdnv": "CDNV",
    "nc2_equinorm_means": "equinorm",
    "nc2_equiangular_means": "equiang.",
    "nc2_etf_error": "ETF error",
    "nc3_self_duality": "NC3",
    NC4_TRAIN: "NC4",
    FN: "fn",
    "mean_norm_l1": "||h||_1",
}
"""Keys of ``EpochRecord.collapse`` -> their column."""

NUMBERS = {"weight_norm": "||W||_2", "train_loss": "loss", "train_accuracy": "train %", "test_accuracy": "test %"}


def epoch_table(run: Trajectory) -> Table:
    """What was measured at every epoch of a run, a row an epoch; a column that no epoch has is left out."""
    names = {name: label for name, label in {**COLLAPSE, **NUMBERS}.items() if run.logs(name)}
    columns = [[number(value) for value in run.series(name)] for name in names]
    sources = list(dict.fromkeys(record.train_from for record in run.records if record.train_from))
    phased = len({record.phase for record in run.records}) > 1
    return Table(
        f"{run.run}: collapse on the training set by epoch; NC1 = Tr(Sigma_W) / Tr(Sigma_B), fn = mean ||h||_2",
        [
            ["epoch", *(["phase"] if phased else []), *names.values()],
            *(
                [str(record.epoch), *([record.phase] if phased else []), *cells]
                for record, *cells in zip(run.records, *columns)
            ),
        ],
        [f"loss and training accuracy: {'; '.join(sources)}"] if sources else [],
    )


def auroc_table(run: Trajectory) -> Table | None:
    """AUROC of every detector and group at every epoch of a run; None where none was measured."""
    detectors = dict.fromkeys(name for record in run.records for name in record.auroc)
    groups = [group for group in GROUPS if any(_has(run, name, group) for name in detectors)]
    if not groups:
        return None
    columns = [[[percent(v) for v in run.auroc(name, group)] for group in groups] for name in detectors]
    rows = [
        [str(epoch), *(" / ".join(by_group[place] for by_group in column) for column in columns)]
        for place, epoch in enumerate(run.epochs)
    ]
    return Table(f"{run.run}: AUROC in percent by epoch, {' / '.join(groups)}", [["epoch", *detectors], *rows])


def _has(run: Trajectory, detector: str, group: str) -> bool:
    return any(record.auroc.get(detector, {}).get(group) is not None for record in run.records)


# -------------------------------------------------------------------- several runs


def onset_table(analysis: Analysis) -> Table:
    """Each run's outcome; in the notes how many there are of each."""
    rows = [["run", "outcome", "epoch", "after epoch", "fn"]]
    rows += [
        [each.run, each.outcome, str(each.epoch), UNKNOWN if each.after is None else str(each.after), number(each.fn)]
        for each in analysis.onsets.values()
    ]
    counts = count_outcomes(list(analysis.onsets.values()))
    return Table(
        f"Onset of collapse: {analysis.rule}",
        rows,
        [
            f"{', '.join(f'{count} {outcome}' for outcome, count in counts.items())} of {len(analysis.onsets)} runs;"
            " censored: not by the last logged epoch, which is given; degenerate: the features vanish"
        ],
    )


def reference_table(analysis: Analysis) -> Table | None:
    """fn* of every group; None where no run had an onset."""
    if not any(each.n for each in analysis.references):
        return None
    rows = [["architecture, data", "n", "censored", "degenerate", "mean fn*", "sd", "CV %", "interval of CV %"]]
    for each in analysis.references:
        counts = [str(each.n), str(each.censored), str(each.degenerate)]
        cv = [percent(each.cv, 100), interval(each.cv_interval, 100)]
        rows.append([", ".join(each.group), *counts, number(each.mean), number(each.sd), *cv])
    return Table("fn*: mean ||h||_2 at onset (arXiv 2604.00230)", rows, [_interval_note()])


def predictor_table(analysis: Analysis) -> Table | None:
    """How well each quantity foretells the onset; None where no run had one."""
    if not analysis.skills:
        return None
    rows = [
        ["predictor", "references from", "architecture, data", "n", "silent", "lead", "MAE", "before onset %",
         "concordance", "tau", "false alarms"]
    ]  # fmt: skip
    for each in analysis.skills:
        values = [
            with_interval(each.lead, each.lead_interval, ".0f"),
            with_interval(each.mae, each.mae_interval, ".0f"),
            with_interval(each.before and 100 * each.before, _scaled(each.before_interval, 100), ".0f"),
            with_interval(each.concordance, each.concordance_interval, ".2f"),
            UNKNOWN if each.tau is None else f"{each.tau:.2f}",
            f"{each.false_alarms} of {each.censored}",
        ]
        seen = f"{each.left_out} (optimistic)" if each.left_out == IN_SAMPLE else each.left_out
        rows.append([each.predictor, seen, ", ".join(each.group), str(each.n), str(each.silent), *values])
    return Table(
        "What foretells the onset: epochs from firing to onset, and |predicted - onset|",
        rows,
        [
            f"{_interval_note()}, references as they were; silent: runs in which it never fired; concordance: share of"
            " pairs of runs in the right order, 0.5 is chance; false alarms: censored runs whose onset was predicted"
            " to be by their last epoch; 'median onset' looks at nothing but the other runs' onsets"
            ", and orders them backwards where it leaves one out",
        ],
    )


def best_epoch_table(analysis: Analysis) -> Table | None:
    """Best epoch for detection against best for accuracy, over runs; None without AUROC."""
    found = best_over_runs(analysis.best_epochs)
    if not found:
        return None
    rows = [["detector", "group", "runs", "best epoch", "AUROC %", "most accurate", "earlier", "later", "lost there",
             "lost at end"]]  # fmt: skip
    rows += [
        [each.detector, each.group, str(each.runs), f"{each.epoch:g}", percent(each.auroc), f"{each.accuracy_epoch:g}",
         str(each.earlier), str(each.later), with_interval(each.lost, each.lost_interval, ".2f"),
         with_interval(each.lost_at_end, each.lost_at_end_interval, ".2f")]
        for each in found
    ]  # fmt: skip
    on = " and ".join(dict.fromkeys(each.accuracy_on for each in analysis.best_epochs))
    return Table(
        "Best epoch for detection and for accuracy, medians over runs; AUROC lost at the most accurate and at the last"
        " epoch, means in points",
        rows,
        [
            f"accuracy on {on}; earlier, later: runs whose best epoch for detection comes before or after; it is chosen"
            f" on the test AUROC itself, so what is lost is an upper bound; {_interval_note()}"
        ],
    )


def overtaking_table(analysis: Analysis) -> Table | None:
    """When pScore beats MSP, over runs; None where the two were not both measured."""
    found = overtakings_over_runs(analysis.overtakings, list(analysis.onsets.values()))
    if not found:
        return None
    metric = analysis.rule.metric
    rows = [
        [
            "group",
            "runs",
            "ever above",
            "first epoch",
            f"{metric} then",
            "least",
            "before onset",
            "ahead in % of epochs",
        ]
    ]
    for each in found:
        epoch = UNKNOWN if each.epoch is None else f"{each.epoch:g}"
        before = f"{each.before_onset} of {each.with_onset}"
        ahead = with_interval(100 * each.ahead, _scaled(each.ahead_interval, 100), ".0f")
        counts = [str(each.runs), str(each.ever)]
        rows.append([each.group, *counts, epoch, number(each.measure), number(each.least_measure), before, ahead])
    return Table(
        f"First epoch at which the AUROC of {SCORE} is above that of {BASELINE}, medians over runs in which it is",
        rows,
        [f"before onset: of the runs that have one; {_interval_note()}"],
    )


def correlation_tables(analysis: Analysis, groups: Sequence[str] = GROUPS) -> list[Table]:
    """Rank correlations of collapse metrics and AUROC, a table a group: over all checkpoints, and within runs."""
    tables = []
    for group in groups:
        here = [each for each in analysis.correlations if each.group == group]
        if not here:
            continue
        detectors = list(dict.fromkeys(each.detector for each in here))
        metrics = list(dict.fromkeys(each.metric for each in here))
        cells = {(each.metric, each.detector): each for each in here}
        rows = [["metric", *detectors]]
        for metric in metrics:
            label = COLLAPSE[metric]
            rows.append([label, *(_pooled(cells.get((metric, name))) for name in detectors)])
            if here[0].runs > 1:
                rows.append([f"{label}, within runs", *(_within(cells.get((metric, name))) for name in detectors)])
        counts = f"n = {max(each.n for each in here)} checkpoints of {max(each.runs for each in here)} runs"
        tables.append(
            Table(
                f"Spearman's rank correlation of collapse metrics with AUROC, {group}-OOD, {counts}",
                rows,
                [f"{_interval_note()}, whole runs resampled; NC1 to NC3 fall with collapse: a negative rho says that"
                 " detection gets better with it"],
            )
        )  # fmt: skip
    return tables


def _pooled(each: Correlation | None) -> str:
    return UNKNOWN if each is None else with_interval(each.rho, each.interval, "+.2f")


def _within(each: Correlation | None) -> str:
    return UNKNOWN if each is None else with_interval(each.within, each.within_interval, "+.2f")


def analysis_tables(analysis: Analysis) -> list[Table]:
    """Every table of an analysis that has something to say; correlations of the standard groups alone."""
    makers = (
        onset_table,
        reference_table,
        predictor_table,
        best_epoch_table,
        overtaking_table,
    )
    tables: Sequence[Table | None] = [make(analysis) for make in makers]
    return [table for table in tables if table is not None] + correlation_tables(analysis, (NEAR, FAR))


# -------------------------------------------------------------------- cells


def number(value: float | None) -> str:
    """Four significant digits."""
    return UNKNOWN if value is None or value != value else f"{value:.4g}"


def percent(value: float | None, factor: float = 1) -> str:
    return UNKNOWN if value is None or value != value else f"{factor * value:.1f}"


def interval(bounds: Interval, factor: float = 1, form: str = ".1f") -> str:
    return UNKNOWN if bounds is None else f"[{factor * bounds[0]:{form}}, {factor * bounds[1]:{form}}]"


def with_interval(value: float | None, bounds: Interval, form: str) -> str:
    """``value [low, high]``, without an interval where there is none."""
    if value is None:
        return UNKNOWN
    return f"{value:{form}}" + ("" if bounds is None else f" {interval(bounds, form=form)}")


def _scaled(bounds: Interval, factor: float) -> Interval:
    return None if bounds is None else (factor * bounds[0], factor * bounds[1])


def _interval_note() -> str:
    return f"in brackets {LEVEL:.0%} bootstrap intervals over runs"
