"""Collapse along training: known answers on synthetic runs with planted onsets, and the command on tiny networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import CONDITIONS, RULE, onsets_of, planted, run_of
from scipy import stats

from nci_plugin.checks import PluginError
from nci_plugin.dynamics.analysis import analyse
from nci_plugin.dynamics.correlations import correlations, spearman
from nci_plugin.dynamics.detection import best_epochs, best_over_runs, overtakings, overtakings_over_runs
from nci_plugin.dynamics.intervals import bootstrap, bootstrap_mean
from nci_plugin.dynamics.onset import CENSORED, DEGENERATE, ONSET, OnsetRule, find_onset
from nci_plugin.dynamics.predictors import (
    IN_SAMPLE,
    MEDIAN_ONSET,
    ONE_CONDITION,
    ONE_RUN,
    Forecast,
    compare,
    firing_order,
    forecast,
)
from nci_plugin.dynamics.reference import references
from nci_plugin.dynamics.trajectory import EpochRecord, Trajectory, TrajectoryFile, read_trajectory
from nci_plugin.report.dynamics_tables import analysis_tables

# -------------------------------------------------------------------- the file


def record(epoch: int, nc1: float | None = 0.5) -> EpochRecord:
    return EpochRecord(epoch, 0.1, 99.0, None, {"nc1_quotient": nc1}, 3.0, {"nci": {"near": 90.0, "far": None}})


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "trajectory.jsonl"
    path.parent.mkdir()
    log = TrajectoryFile(path, "run", CONDITIONS)
    for epoch in (10, 20, 30):
        log.add(record(epoch))
    return path


def test_log_reads_back(logged: Path) -> None:
    read = read_trajectory(logged.parent)
    assert read == Trajectory("run", CONDITIONS, [record(10), record(20), record(30)])
    assert TrajectoryFile(logged, "run", CONDITIONS).trajectory == read


def test_epoch_logged_again_is_replaced_and_order_is_by_epoch(logged: Path) -> None:
    log = TrajectoryFile(logged, "run", CONDITIONS)
    log.add(record(20, 0.25))
    log.add(record(0))
    read = read_trajectory(logged)
    assert [each.epoch for each in read.records] == [0, 10, 20, 30]
    assert read.series("nc1_quotient").tolist() == [0.5, 0.5, 0.25, 0.5]


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_line_cut_by_a_kill_is_dropped_and_logged_again(logged: Path, cut: int, caplog: Any) -> None:
    whole = logged.read_bytes()
    logged.write_bytes(whole[:-cut])
    assert len(read_trajectory(logged).records) == 2
    log = TrajectoryFile(logged, "run", CONDITIONS)
    assert sorted(log.records) == [10, 20]
    assert "cut by a kill" in caplog.text
    log.add(record(30))
    assert logged.read_bytes() == whole


@pytest.mark.parametrize("size", [0, 5])
def test_cut_header_is_written_again(logged: Path, size: int) -> None:
    logged.write_bytes(logged.read_bytes()[:size])
    assert TrajectoryFile(logged, "run", CONDITIONS).records == {}
    assert read_trajectory(logged).records == []


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda lines: [lines[0], lines[1].replace("0.5", "0.4"), *lines[2:]], "line 2: .*checksum"),
        (lambda lines: [lines[0], "{", *lines[2:]], "line 2: "),
        (lambda lines: [lines[0].replace("digits", "cifar10"), *lines[1:]], "line 1: .*checksum"),
        (lambda lines: [*lines, lines[-1]], "line 5: epoch 30 stands there twice"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], "line 2: epoch: unknown key"),
    ],
)
def test_other_damage_is_refused(logged: Path, damage: Any, text: str) -> None:
    lines = logged.read_text().splitlines()
    logged.write_text("".join(f"{line}\n" for line in damage(lines)))
    with pytest.raises(PluginError, match=text):
        read_trajectory(logged)
    with pytest.raises(PluginError, match=text):
        TrajectoryFile(logged, "run", CONDITIONS)


def test_other_run_is_refused(logged: Path) -> None:
    with pytest.raises(PluginError, match="other conditions"):
        TrajectoryFile(logged, "run", {**CONDITIONS, "depth": 3})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_nan_is_logged(value: float) -> None:
    with pytest.raises(PluginError, match="nc1_quotient"):
        record(10, value)


def test_series_names(logged: Path) -> None:
    read = read_trajectory(logged)
    assert read.series("train_error").tolist() == [1.0] * 3
    assert np.isnan(read.series("test_accuracy")).all()
    assert read.auroc("nci", "near").tolist() == [90.0] * 3
    assert np.isnan(read.auroc("nci", "far")).all()
    assert not read.logs("test_accuracy")
    assert not read.logs("nc9")
    with pytest.raises(PluginError, match="did you mean 'nc1_quotient'"):
        read.series("nc1_quotent")


# -------------------------------------------------------------------- onset


@pytest.mark.parametrize(
    ("nc1", "outcome", "epoch"),
    [
        ([1, 0.5, 0.009, 0.008, 0.007, 0.02], ONSET, 30),  # rises later: it lasted as long as was asked
        ([1, 0.009, 0.008, 0.02, 0.009, 0.008, 0.007], ONSET, 50),  # comes back: does not count
        ([1, 0.009, 0.02, 0.009, 0.02], CENSORED, 50),
        ([1, 0.5, 0.009, 0.008], CENSORED, 40),  # not long enough until the end
        ([1, 0.01, 0.01, 0.01], CENSORED, 40),  # not below
        ([1, 0.009, None, 0.008, 0.007, 0.006], ONSET, 40),  # a missing value is not below
        ([0.001] * 4, ONSET, 10),
        ([1] * 5, CENSORED, 50),
        ([0.001] * 2, CENSORED, 20),
    ],
)
def test_onset(nc1: list[float | None], outcome: str, epoch: int) -> None:
    onset = find_onset(run_of({"nc1_quotient": nc1}), RULE)
    assert (onset.outcome, onset.epoch) == (outcome, epoch)
    assert onset.after == (epoch - 10 if epoch > 10 else None)
    assert onset.fn == 1.0


def test_onset_under_noise_is_where_it_lasts() -> None:
    generator = np.random.default_rng(0)
    level = np.where(np.arange(100) < 60, 0.02, 0.005)  # the noise crosses the threshold alone, never three times
    noise = np.where(np.arange(100) % 3 == 0, -0.015, 0.004) * (np.arange(100) < 60)
    nc1 = level + noise + 0.0005 * generator.standard_normal(100)
    assert find_onset(run_of({"nc1_quotient": nc1.tolist()}), OnsetRule(sustained=1)).epoch == 10
    assert find_onset(run_of({"nc1_quotient": nc1.tolist()}), RULE).epoch == 610


def test_onset_of_a_property_that_rises() -> None:
    run = run_of({"nc4_train": [0.5, 0.995, 0.98, 0.995, 0.996, 1.0]})
    onset = find_onset(run, OnsetRule("nc4_train", 0.99, below=False))
    assert (onset.outcome, onset.epoch) == (ONSET, 40)


@pytest.mark.parametrize(
    ("nc1", "fn", "outcome", "epoch"),
    [
        ([1, 0.5, 0.005, 0.005, 0.005], [5, 3, 0.04, 0.03, 0.02], DEGENERATE, 30),
        ([1, 0.5, None, None, None], [5, 3, 0.0, 0.0, 0.0], DEGENERATE, 30),  # 0 / 0 has no value
        ([1, 0.5, 0.005, 0.005, 0.005], [5, 3, 0.2, 0.2, 0.2], ONSET, 30),
        ([1, 0.005, 0.005, 0.005, 0.005, 0.005, 0.005], [5, 5, 5, 5, 0.01, 0.01, 0.01], ONSET, 20),  # vanished later
    ],
)
def test_vanishing_features_are_their_own_outcome(nc1: Any, fn: list[float], outcome: str, epoch: int) -> None:
    onset = find_onset(run_of({"nc1_quotient": nc1, "mean_norm_l2": fn}), RULE)
    assert (onset.outcome, onset.epoch) == (outcome, epoch)


def test_onset_within_a_phase() -> None:
    nc1 = [0.5, 0.005, 0.005, 0.005, 0.5, 0.005, 0.005, 0.005]
    run = run_of({"nc1_quotient": nc1, "phase": ["ce"] * 4 + ["mse"] * 4})  # type: ignore[dict-item]
    assert find_onset(run, RULE).epoch == 20
    assert find_onset(run, OnsetRule(phase="mse")).epoch == 60
    assert find_onset(run, OnsetRule(phase="last")).epoch == 60
    assert find_onset(run, OnsetRule(phase="focal")).outcome == CENSORED


# -------------------------------------------------------------------- fn*


def test_reference_counts_and_values() -> None:
    runs = [planted(f"r{place}", 100, fn) for place, fn in enumerate((1.0, 1.0, 2.0, 3.0, 3.0))]
    runs += [planted("late", 500, 9.0), planted("other", 100, 5.0, data="cifar10")]
    first, second = references(runs, onsets_of(runs))
    assert first.group == ("mlp", "digits")
    assert second.group == ("mlp", "cifar10")
    assert (first.n, first.censored, first.degenerate) == (5, 1, 0)
    assert (first.mean, first.sd, first.cv) == pytest.approx((2.0, 1.0, 0.5))
    assert first.cv_interval is not None
    assert first.cv_interval[0] < 0.5 < first.cv_interval[1] + 0.2
    assert (second.n, second.sd, second.cv, second.cv_interval) == (1, None, None, None)


# -------------------------------------------------------------------- predictors


def grid(noise: float = 0.0) -> list[Trajectory]:
    """Onsets at 100, 150, ... by depth, two seeds each; fn is 2 at every onset."""
    generator = np.random.default_rng(1)
    return [
        planted(f"d{depth}s{seed}", 50 + 50 * depth, 2 + noise * generator.standard_normal(), depth=depth, seed=seed)
        for depth in range(1, 6)
        for seed in range(2)
    ]


def skills(runs: Sequence[Trajectory]) -> dict[tuple[str, str], Any]:
    return {(each.predictor, each.left_out): each for each in compare(runs, onsets_of(runs))}


def test_planted_predictors_are_exact() -> None:
    found = skills(grid())
    for left_out in (IN_SAMPLE, ONE_RUN, ONE_CONDITION):
        fn, loss = found["fn* falling", left_out], found["train loss", left_out]
        assert (fn.lead, fn.mae, fn.before, fn.concordance, fn.tau) == (0, 0, 0, 1, pytest.approx(1))
        assert (loss.lead, loss.mae, loss.before, loss.concordance) == (40, 0, 1, 1)
        assert (fn.n, fn.silent, fn.censored, fn.false_alarms) == (10, 0, 0, 0)
        assert loss.lead_interval == (40, 40)
        assert loss.mae_interval == (0, 0)
    assert ("NC2", ONE_RUN) not in found  # not logged


def test_median_onset_knows_nothing() -> None:
    found = skills(grid())
    assert found[MEDIAN_ONSET, IN_SAMPLE].concordance == 0.5
    assert found[MEDIAN_ONSET, IN_SAMPLE].mae == np.mean(np.abs(np.array([100, 150, 200, 250, 300]) - 200))
    # Left out, a late run's median is early: worse than chance.
    assert found[MEDIAN_ONSET, ONE_CONDITION].concordance < 0.5


@pytest.mark.parametrize("left_out", [ONE_RUN, ONE_CONDITION])
def test_run_left_out_does_not_move_its_own_reference(left_out: str) -> None:
    runs = grid(noise=0.1)
    changed = [planted("d3s0", 310, 0.5, lead=120, depth=3, seed=0) if run.run == "d3s0" else run for run in runs]

    def of(some: Sequence[Trajectory], name: str) -> dict[str, Forecast]:
        return {each.run: each for each in forecast("fn* falling", some, onsets_of(some), name)}

    before, after = of(runs, left_out), of(changed, left_out)
    assert after["d3s0"].reference == before["d3s0"].reference
    assert of(runs, IN_SAMPLE)["d3s0"].reference != of(changed, IN_SAMPLE)["d3s0"].reference
    moved = {run for run in before if before[run].reference != after[run].reference}
    assert moved
    assert "d3s0" not in moved
    assert ("d3s1" in moved) == (left_out == ONE_RUN)  # the other seed of the condition that was left out


def test_runs_without_others_to_learn_from_are_not_judged() -> None:
    seeds = [planted(f"r{seed}", 200, seed=seed) for seed in range(3)]
    assert {left_out for _, left_out in skills(seeds)} == {IN_SAMPLE, ONE_RUN}
    assert skills(seeds[:1]) == {}
    # Runs without an onset teach nothing, and are not judged.
    never = [planted(f"n{seed}", 10_000, depth=9, seed=seed) for seed in range(3)]
    assert {left_out for _, left_out in skills([*seeds, *never])} == {IN_SAMPLE, ONE_RUN}


def test_in_sample_flatters() -> None:
    """Half of the runs pass fn = 1 at their onset, half fn = 3: their own run makes the difference of a median."""
    runs = [planted(f"r{seed}", 200, fn, seed=seed) for seed, fn in enumerate((1.0, 2.0, 3.0))]
    found = skills(runs)
    assert found["fn* falling", IN_SAMPLE].mae < found["fn* falling", ONE_RUN].mae


def test_censored_runs_are_counted_and_ordered() -> None:
    runs = [*grid(), planted("never", 10_000, 2.0, end=400, depth=9)]
    early = planted("alarm", 10_000, 2.0, end=400, depth=8)
    records = [dataclasses.replace(each, train_loss=0.1) for each in early.records]
    found = skills([*runs, dataclasses.replace(early, records=records)])
    fn, loss = found["fn* falling", ONE_RUN], found["train loss", ONE_RUN]
    assert (fn.n, fn.censored, fn.false_alarms, fn.concordance) == (10, 2, 0, 1.0)
    assert (loss.n, loss.censored, loss.false_alarms) == (10, 2, 1)
    pairs_among_observed = 40  # of 45, five have the same onset
    assert loss.concordance == pytest.approx((pairs_among_observed + 10) / (pairs_among_observed + 20))


def test_silent_predictor_is_counted_and_comes_last() -> None:
    runs = grid()
    records = [dataclasses.replace(each, train_loss=2.0) for each in runs[0].records]
    found = skills([dataclasses.replace(runs[0], records=records), *runs[1:]])["train loss", ONE_RUN]
    assert (found.n, found.silent) == (10, 1)
    assert found.before == pytest.approx(0.9)
    assert found.concordance == pytest.approx((40 - 8) / 40)


def test_shuffled_onsets_are_at_chance() -> None:
    """Firing epochs dealt out at random: concordance is 0.5 on average, and its interval covers it."""
    generator = np.random.default_rng(0)
    onsets = generator.permutation(60) * 10
    values = []
    for _ in range(50):
        fired = zip(generator.permutation(60) * 10, onsets)
        made = [
            Forecast(str(place), 0.0, int(first), None, int(onset), True) for place, (first, onset) in enumerate(fired)
        ]
        right, pairs = firing_order(made)
        values.append(right[pairs].mean())
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(0).standard_normal(200).tolist()
    low, high = bootstrap(values, lambda some: float(np.mean(some))) or (0, 0)
    expected = stats.bootstrap((values,), np.mean, method="percentile", random_state=0).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert bootstrap(values, lambda some: float(np.mean(some))) == (low, high)
    assert bootstrap_mean(values) == pytest.approx((low, high), abs=0.03)
    assert bootstrap_mean([*values, None, None]) == pytest.approx((low, high), abs=0.03)
    assert bootstrap_mean([None] * 5) is None
    assert bootstrap(values[:2], lambda some: float(np.mean(some))) is None
    assert bootstrap(values, lambda some: None) is None


# -------------------------------------------------------------------- detection


def scored(run: str, nc1: Sequence[float], aurocs: Mapping[str, Sequence[float | None]], **values: Any) -> Trajectory:
    auroc = [{name: {"near": each[place]} for name, each in aurocs.items()} for place in range(len(nc1))]
    return run_of({"nc1_quotient": nc1, "auroc": auroc, **values}, run)  # type: ignore[dict-item]


def test_best_epoch_for_detection_and_for_accuracy() -> None:
    run = scored("r", [0.1] * 4, {"nci": [80, 90, 90, None]}, test_accuracy=[50, 60, 70, 99], train_accuracy=[99] * 4)
    (best,) = best_epochs(run)
    assert (best.epoch, best.auroc, best.accuracy_epoch, best.accuracy_on) == (20, 90, 30, "test")
    assert (best.lost, best.lost_at_end, best.n) == (0, 0, 3)
    (best,) = best_epochs(scored("r", [0.1] * 2, {"nci": [80, 70]}, train_accuracy=[60, 70]))
    assert (best.epoch, best.accuracy_epoch, best.accuracy_on, best.lost) == (10, 20, "train", 10)


def test_the_columns_at_the_left_tell_the_rows_of_every_table_apart() -> None:
    runs = [
        dataclasses.replace(
            run,
            records=[
                dataclasses.replace(each, test_accuracy=90.0, auroc={"nci": {"near": 80.0, "far": 90.0}})
                for each in run.records
            ],
        )
        for run in grid()
    ]
    tables = analysis_tables(analyse(runs, RULE))
    assert len(tables) > 3
    for table in tables:
        left = [tuple(row[: table.left]) for row in table.rows]
        assert len(set(left)) == len(left), table.title


def test_overtaking() -> None:
    nc1 = [0.4, 0.3, 0.2, 0.005, 0.005, 0.005]
    run = scored("r", nc1, {"pscore": [70, 81, 79, 83, 84, 85], "msp": [80] * 6})
    onset = find_onset(run, RULE)
    (first,) = overtakings(run, onset)
    assert (first.epoch, first.measure, first.at_onset, first.n) == (20, 0.3, -20, 6)
    assert first.ahead == pytest.approx(4 / 6)
    (never,) = overtakings(scored("r", nc1, {"pscore": [70] * 6, "msp": [80] * 6}), onset)
    assert (never.epoch, never.measure, never.at_onset, never.ahead) == (None, None, None, 0)


def test_correlation_of_collapse_and_detection() -> None:
    generator = np.random.default_rng(0)
    nc1 = [np.sort(generator.random(8))[::-1] for _ in range(6)]
    runs = [scored(f"r{place}", each.tolist(), {"nci": (100 - 50 * each).tolist()}) for place, each in enumerate(nc1)]
    found = {each.metric: each for each in correlations(runs, resamples=100)}
    one = found["nc1_quotient"]
    assert (one.n, one.runs, one.rho, one.within) == (48, 6, pytest.approx(-1), pytest.approx(-1))
    assert one.interval == pytest.approx((-1, -1))
    assert found["mean_norm_l2"].rho is None  # constant


def test_correlation_between_runs_is_not_one_within_them() -> None:
    """AUROC differs between runs, and so does NC1; within a run the two have nothing to do with each other."""
    generator = np.random.default_rng(0)
    runs = [
        scored(f"r{level}", (level + 0.1 * generator.random(20)).tolist(),
               {"nci": (50 + 5 * level + 0.1 * generator.random(20)).tolist()})
        for level in range(8)
    ]  # fmt: skip
    one = next(each for each in correlations(runs, resamples=200) if each.metric == "nc1_quotient")
    assert one.rho is not None
    assert one.rho > 0.95
    assert one.within_interval is not None
    assert one.within_interval[0] < 0 < one.within_interval[1]


def test_interval_of_a_correlation_is_over_runs_not_checkpoints() -> None:
    """Every run's checkpoints are copies of one: more of them must not narrow the interval."""
    generator = np.random.default_rng(0)
    levels, aurocs = generator.random(6), 50 + 40 * generator.random(6)

    def width(copies: int) -> float:
        runs = [scored(f"r{i}", [levels[i]] * copies, {"nci": [aurocs[i]] * copies}) for i in range(6)]
        one = next(each for each in correlations(runs, resamples=300) if each.metric == "nc1_quotient")
        assert one.interval is not None
        return one.interval[1] - one.interval[0]

    assert width(30) == pytest.approx(width(3), abs=0.05)


def test_spearman_is_scipys() -> None:
    table = np.random.default_rng(0).integers(5, size=(30, 3)).astype(float)
    expected = [stats.spearmanr(table[:, 0], table[:, place]).statistic for place in (1, 2)]
    assert spearman(table[:, :1], table[:, 1:])[0] == pytest.approx(expected)
    assert np.isnan(spearman(table[:2], table[:2])).all()


def test_correlation_is_over_the_checkpoints_that_have_both() -> None:
    nc1 = [[0.5, None, 0.3, 0.2, 0.1], [0.5, 0.4, 0.3, 0.2, 0.1]]
    aurocs = [[60, 1, 70, 75, 80], [60, 65, None, 75, 80]]
    runs = [scored(f"r{place}", each, {"nci": aurocs[place]}) for place, each in enumerate(nc1)]  # type: ignore[arg-type]
    runs.append(run_of({"nc3_self_duality": [0.1] * 4}, "other"))  # logs no NC1 and no AUROC
    one = next(each for each in correlations(runs, resamples=20) if each.metric == "nc1_quotient")
    assert (one.n, one.runs, one.rho, one.interval) == (8, 2, pytest.approx(-1), None)


def test_detection_over_runs() -> None:
    nc1 = [0.4, 0.3, 0.2, 0.005, 0.005, 0.005]
    runs = [
        scored("a", nc1, {"pscore": [70, 81, 79, 83, 84, 85], "msp": [80] * 6}, test_accuracy=[50, 60, 70, 80, 80, 80]),
        scored("b", nc1, {"pscore": [70] * 6, "msp": [80] * 6}, test_accuracy=[90, 60, 70, 80, 80, 80]),
    ]
    onsets = onsets_of(runs)
    (both,) = overtakings_over_runs(
        [each for run in runs for each in overtakings(run, onsets[run.run])], [*onsets.values()]
    )
    assert (both.runs, both.ever, both.epoch, both.measure, both.with_onset, both.before_onset) == (2, 1, 20, 0.3, 2, 1)
    assert both.ahead == pytest.approx(1 / 3)
    pscore, msp = best_over_runs([each for run in runs for each in best_epochs(run)])
    assert (pscore.runs, pscore.epoch, pscore.accuracy_epoch, pscore.earlier, pscore.later) == (2, 35, 25, 0, 1)
    assert (pscore.lost, pscore.lost_at_end, msp.lost) == (1, 0, 0)
