"""Collapse along training as tables, from trajectories and their analysis alone."""

from __future__ import annotations

from collections.abc import Sequence

from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.collapse.registry import EPOCHS, METRICS, columns
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.detection import BASELINE, SCORE, best_over_runs, measured, overtakings_over_runs
from nci_plugin.dynamics.intervals import LEVEL
from nci_plugin.dynamics.onset import count_outcomes
from nci_plugin.dynamics.predictors import IN_SAMPLE
from nci_plugin.dynamics.trajectory import FN, GROUPS, Trajectory
from nci_plugin.report.cells import UNKNOWN, interval, number, percent, with_interval
from nci_plugin.report.tables import Table

NUMBERS = {"weight_norm": "||W||_2", "train_loss": "loss", "train_accuracy": "train %", "test_accuracy": "test %"}
OVER_RUNS = f"in brackets {LEVEL:.0%} bootstrap intervals over runs"


ORTHO_DEV = {"ortho_dev near": "OrthoDev near", "ortho_dev far": "OrthoDev far"}
"""NC5 along training; what no run has is left out."""


def symbol(name: str) -> str:
    """The column of a collapse metric; the feature norm is called fn here, as in arXiv 2604.00230."""
    return "fn" if name == FN else METRICS[name].symbol


def epoch_table(run: Trajectory) -> Table:
    """What was measured at every epoch of a run, a row an epoch; a column that no epoch has is left out."""
    names = {**{name: symbol(name) for name in columns(EPOCHS)}, **ORTHO_DEV, **NUMBERS}
    shown = {label: map(number, run.series(name)) for name, label in names.items() if run.logs(name)}
    if len({record.phase for record in run.records}) > 1:
        shown = {"phase": map(str, (record.phase for record in run.records)), **shown}
    sources = list(dict.fromkeys(record.train_from for record in run.records if record.train_from))
    return Table(
        f"{run.run}: collapse on the training set by epoch; NC1 = Tr(Sigma_W) / Tr(Sigma_B), fn = mean ||h||_2",
        [["epoch", *shown], *map(list, zip(map(str, run.epochs), *shown.values()))],
        [f"loss and training accuracy: {'; '.join(sources)}"] if sources else [],
    )


def auroc_table(run: Trajectory) -> Table | None:
    """AUROC of every detector and group at every epoch of a run; None where none was measured."""
    known = {group for _, group, _ in measured(run)}
    groups = [group for group in GROUPS if group in known]
    if not groups:
        return None
    shown = {
        name: (" / ".join(map(percent, values)) for values in zip(*(run.auroc(name, group) for group in groups)))
        for record in run.records
        for name in record.auroc
    }
    rows = map(list, zip(map(str, run.epochs), *shown.values()))
    return Table(f"{run.run}: AUROC in percent by epoch, {' / '.join(groups)}", [["epoch", *shown], *rows])


# -------------------------------------------------------------------- several runs


def onset_table(analysis: Analysis) -> Table:
    """Each run's outcome; in the notes how many there are of each."""
    onsets = list(analysis.onsets.values())
    rows = [[each.run, each.outcome, str(each.epoch), number(each.after), number(each.fn)] for each in onsets]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in count_outcomes(onsets).items())
    return Table(
        f"Onset of collapse: {analysis.rule}",
        [["run", "outcome", "epoch", "after epoch", "fn"], *rows],
        [
            f"{counts} of {len(onsets)} runs;"
            " censored: not by the last logged epoch, which is given; degenerate: the features vanish"
        ],
    )


def reference_table(analysis: Analysis) -> Table | None:
    """fn* of every group; None where no run had an onset."""
    if not any(each.n for each in analysis.references):
        return None
    header = ["architecture, data", "n", "censored", "degenerate", "mean fn*", "sd", "CV %", "interval of CV %"]
    rows = [
        [", ".join(each.group), *map(number, (each.n, each.censored, each.degenerate, each.mean, each.sd)),
         percent(each.cv, 100), interval(each.cv_interval, 100)]
        for each in analysis.references
    ]  # fmt: skip
    return Table("fn*: mean ||h||_2 at onset (arXiv 2604.00230)", [header, *rows], [OVER_RUNS])


def predictor_table(analysis: Analysis) -> Table | None:
    """How well each quantity foretells the onset; None where no run had one."""
    if not analysis.skills:
        return None
    header = ["predictor", "references from", "architecture, data", "n", "silent", "lead", "MAE", "before onset %",
              "concordance", "tau", "false alarms"]  # fmt: skip
    rows = [
        [each.predictor, f"{each.left_out} (optimistic)" if each.left_out == IN_SAMPLE else each.left_out,
         ", ".join(each.group), str(each.n), str(each.silent),
         with_interval(each.lead, each.lead_interval, ".0f"), with_interval(each.mae, each.mae_interval, ".0f"),
         with_interval(each.before, each.before_interval, ".0f", 100),
         with_interval(each.concordance, each.concordance_interval, ".2f"), with_interval(each.tau, None, ".2f"),
         f"{each.false_alarms} of {each.censored}"]
        for each in analysis.skills
    ]  # fmt: skip
    return Table(
        "What foretells the onset: epochs from firing to onset, and |predicted - onset|",
        [header, *rows],
        [
            f"{OVER_RUNS}, references as they were; silent: runs in which it never fired; concordance: share of"
            " pairs of runs in the right order, 0.5 is chance; false alarms: censored runs whose onset was predicted"
            " to be by their last epoch; 'median onset' looks at nothing but the other runs' onsets"
            ", and orders them backwards where it leaves one out",
        ],
        left=3,
    )


def best_epoch_table(analysis: Analysis) -> Table | None:
    """Best epoch for detection against best for accuracy, over runs; None without AUROC."""
    if not analysis.best_epochs:
        return None
    header = ["detector", "group", "runs", "best epoch", "AUROC %", "most accurate", "earlier", "later", "lost there",
              "lost at end"]  # fmt: skip
    rows = [
        [each.detector, each.group, str(each.runs), f"{each.epoch:g}", percent(each.auroc), f"{each.accuracy_epoch:g}",
         str(each.earlier), str(each.later), with_interval(each.lost, each.lost_interval, ".2f"),
         with_interval(each.lost_at_end, each.lost_at_end_interval, ".2f")]
        for each in best_over_runs(analysis.best_epochs)
    ]  # fmt: skip
    on = " and ".join(dict.fromkeys(each.accuracy_on for each in analysis.best_epochs))
    return Table(
        "Best epoch for detection and for accuracy, medians over runs; AUROC lost at the most accurate and at the last"
        " epoch, means in points",
        [header, *rows],
        [
            f"accuracy on {on}; earlier, later: runs whose best epoch for detection comes before or after; it is chosen"
            f" on the test AUROC itself, so what is lost is an upper bound; {OVER_RUNS}"
        ],
        left=2,
    )


def overtaking_table(analysis: Analysis) -> Table | None:
    """When pScore beats MSP, over runs; None where the two were not both measured."""
    found = overtakings_over_runs(analysis.overtakings, list(analysis.onsets.values()))
    if not found:
        return None
    metric = analysis.rule.metric
    header = ["group", "runs", "ever above", "first epoch", f"{metric} then", "least", "before onset",
              "ahead in % of epochs"]  # fmt: skip
    rows = [
        [each.group, str(each.runs), str(each.ever), UNKNOWN if each.epoch is None else f"{each.epoch:g}",
         number(each.measure), number(each.least_measure), f"{each.before_onset} of {each.with_onset}",
         with_interval(each.ahead, each.ahead_interval, ".0f", 100)]
        for each in found
    ]  # fmt: skip
    return Table(
        f"First epoch at which the AUROC of {SCORE} is above that of {BASELINE}, medians over runs in which it is",
        [header, *rows],
        [f"before onset: of the runs that have one; {OVER_RUNS}"],
    )


def correlation_tables(analysis: Analysis, groups: Sequence[str] = GROUPS) -> list[Table]:
    """Rank correlations of collapse metrics and AUROC, a table a group: over all checkpoints, and within runs."""
    tables = []
    for group in groups:
        here = [each for each in analysis.correlations if each.group == group]
        if not here:
            continue
        detectors = list(dict.fromkeys(each.detector for each in here))
        rows = [["metric", *detectors]]
        for metric in dict.fromkeys(each.metric for each in here):
            by = {each.detector: each for each in here if each.metric == metric}
            pooled = {name: with_interval(each.rho, each.interval, "+.2f") for name, each in by.items()}
            rows.append([symbol(metric), *(pooled.get(name, UNKNOWN) for name in detectors)])
            if here[0].runs > 1:
                within = {name: with_interval(each.within, each.within_interval, "+.2f") for name, each in by.items()}
                rows.append([f"{symbol(metric)}, within runs", *(within.get(name, UNKNOWN) for name in detectors)])
        counts = f"n = {max(each.n for each in here)} checkpoints of {max(each.runs for each in here)} runs"
        title = f"Spearman's rank correlation of collapse metrics with AUROC, {group}-OOD, {counts}"
        note = (
            f"{OVER_RUNS}, whole runs resampled; NC1 to NC3 fall with collapse: a negative rho says that detection gets"
            " better with it"
        )
        tables.append(Table(title, rows, [note]))
    return tables


def analysis_tables(analysis: Analysis) -> list[Table]:
    """Every table of an analysis that has something to say; correlations of the standard groups alone."""
    makers = (onset_table, reference_table, predictor_table, best_epoch_table, overtaking_table)
    tables: Sequence[Table | None] = [make(analysis) for make in makers]
    return [table for table in tables if table is not None] + correlation_tables(analysis, (NEAR, FAR))
