"""Claims about collapse along training, on runs in which the answer was planted, and the page of findings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import findings as page
import numpy as np
import pytest
import recheck
from claims import CANNOT_TELL, CONFIRMED, NOT_CONFIRMED, findings
from claims.intervention import attractor, is_intervened
from claims.reference import concentration, invariance, non_additivity
from claims.structure import activation, depth, weight_decay, width, width_shift
from claims.training import cross_entropy, early_detection
from planted import onsets_of, planted
from regularities import NEVER, never_later, non_monotonic, regularity, three_regimes

from nci_plugin.dynamics.analysis import Analysis, analyse
from nci_plugin.dynamics.onset import OnsetRule
from nci_plugin.dynamics.predictors import compare
from nci_plugin.dynamics.reference import references
from nci_plugin.dynamics.trajectory import EpochRecord, Trajectory, TrajectoryFile

ROOT = Path(__file__).resolve().parents[2]
NEVER_YET = 10_000
RULE = OnsetRule()


def quickly(runs: Sequence[Trajectory]) -> Analysis:
    """An analysis without its slow parts, which the claims here do not read."""
    onsets = onsets_of(runs)
    return Analysis(RULE, runs, onsets, references(runs, onsets), [], [], [], [])


def by_level(factor: str, onset_of: dict[Any, int], fn: dict[Any, float] | None = None, seeds: int = 3) -> Any:
    """Runs whose onset (and fn*) depends on one condition, with seeds ten epochs and 1 % apart."""
    return [
        planted(f"{level}s{seed}", onset + 10 * seed, (fn or {}).get(level, 2.0) * (1 + 0.01 * seed),
                **{factor: level, "seed": seed})
        for level, onset in onset_of.items() for seed in range(seeds)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "factor", "onset_of", "verdict"),
    [
        (depth, "depth", {2: 300, 4: 100, 6: 200}, CONFIRMED),
        (depth, "depth", {2: 100, 4: 200, 6: 300}, NOT_CONFIRMED),
        (depth, "depth", {2: 100, 4: 110, 6: 100}, CANNOT_TELL),  # within what seeds differ by
        (depth, "depth", {2: 100, 4: 300}, CANNOT_TELL),  # two levels have no shape
        (width, "width", {16: 300, 32: 200, 64: 100}, CONFIRMED),
        (width, "width", {16: 100, 32: 200, 64: 300}, NOT_CONFIRMED),
        (width, "width", {16: NEVER_YET, 32: 200, 64: 100}, CONFIRMED),
        (weight_decay, "weight_decay", {0.0: 300, 1e-4: 100, 1e-2: NEVER_YET}, CONFIRMED),
        (weight_decay, "weight_decay", {0.0: 300, 1e-4: 100, 1e-2: 200}, NOT_CONFIRMED),
        (weight_decay, "weight_decay", {0.0: 100, 1e-4: 200, 1e-2: NEVER_YET}, NOT_CONFIRMED),
    ],
)
def test_regularities(claim: Any, factor: str, onset_of: dict[Any, int], verdict: str) -> None:
    assert claim(quickly(by_level(factor, onset_of))).verdict == verdict


def test_regularity_holds_all_other_conditions() -> None:
    """The three deep runs were also wider: no slice has three depths."""
    runs = by_level("depth", {2: 300, 4: 100})
    runs += [planted(f"wide{seed}", 200, depth=6, width=256, seed=seed) for seed in range(3)]
    found = depth(quickly(runs))
    assert found.verdict == CANNOT_TELL
    assert "not tested" in found.measured


def test_patterns() -> None:
    assert non_monotonic([1, 2, 1])
    assert non_monotonic([1, NEVER, 1])
    assert not non_monotonic([1, 1, 2, NEVER, NEVER])
    assert never_later([3, 3, 1])
    assert not never_later([3, 3, 3])
    assert not never_later([3, 1, 2])
    assert three_regimes([3, 1, NEVER])
    assert three_regimes([NEVER, 1, NEVER])
    assert not three_regimes([NEVER, NEVER, NEVER])


def test_support_counts_resamples() -> None:
    """Two of three seeds of the middle level are slow: its upper median is fast in 7 of 27 resamples."""
    runs = [
        *(planted(f"a{seed}", 200, depth=2, seed=seed) for seed in range(3)),
        *(planted(f"b{seed}", onset, depth=4, seed=seed) for seed, onset in enumerate((100, 300, 300))),
        *(planted(f"c{seed}", 200, depth=6, seed=seed) for seed in range(3)),
    ]
    found = regularity(runs, onsets_of(runs), "depth", lambda medians: medians[1] < medians[0])
    assert found is not None
    assert not found.holds
    assert found.support == pytest.approx(7 / 27, abs=0.04)


@pytest.mark.parametrize(
    ("onset_of", "fn", "verdict"),
    [
        ({"relu": 100, "tanh": 300}, {"relu": 1.0, "tanh": 2.0}, CONFIRMED),
        ({"relu": 100, "tanh": 100}, {"relu": 1.0, "tanh": 1.0}, NOT_CONFIRMED),
        ({"relu": 100, "tanh": 300}, {"relu": 1.0, "tanh": 1.0}, CANNOT_TELL),
    ],
)
def test_activation(onset_of: Any, fn: Any, verdict: str) -> None:
    assert activation(quickly(by_level("activation", onset_of, fn, seeds=6))).verdict == verdict


@pytest.mark.parametrize(
    ("fn", "verdict"),
    [({16: 2.0, 64: 2.1}, CONFIRMED), ({16: 2.0, 64: 3.0}, NOT_CONFIRMED), ({16: 2.0, 64: 2.27}, CANNOT_TELL)],
)
def test_shift_by_width(fn: Any, verdict: str) -> None:
    assert width_shift(quickly(by_level("width", {16: 100, 64: 100}, fn))).verdict == verdict


@pytest.mark.parametrize(("spread", "verdict"), [(0.01, CONFIRMED), (0.2, NOT_CONFIRMED), (0.09, CANNOT_TELL)])
def test_concentration(spread: float, verdict: str) -> None:
    values = 2 + 2 * spread * np.random.default_rng(0).standard_normal(12)
    runs = [planted(f"r{seed}", 100, float(fn), seed=seed) for seed, fn in enumerate(values)]
    assert concentration(quickly(runs)).verdict == verdict
    assert concentration(quickly(runs[:2])).verdict == CANNOT_TELL


@pytest.mark.parametrize(
    ("fn", "verdict"), [({2: 2.0, 4: 2.0}, CONFIRMED), ({2: 2.0, 4: 3.0}, NOT_CONFIRMED), ({2: 2.0}, CANNOT_TELL)]
)
def test_invariance(fn: dict[int, float], verdict: str) -> None:
    assert invariance(quickly(by_level("depth", dict.fromkeys(fn, 100), fn, seeds=6))).verdict == verdict


@pytest.mark.parametrize(
    ("corner", "verdict"),
    [
        (5.0, CONFIRMED),  # neither 1 + 2 - 0.5 nor 1 * 2 / 0.5
        (2.5, CANNOT_TELL),  # the sum
        (4.0, CANNOT_TELL),  # the product
    ],
)
def test_non_additivity(corner: float, verdict: str) -> None:
    square = {("mlp", "a"): 0.5, ("mlp", "b"): 1.0, ("resnet", "a"): 2.0, ("resnet", "b"): corner}
    runs = [
        planted(f"{architecture}{data}{seed}", 100, fn * (1 + 0.01 * (seed - 1)), architecture=architecture, data=data,
                seed=seed)
        for (architecture, data), fn in square.items() for seed in range(3)
    ]  # fmt: skip
    # Other depths of one corner, where fn* is another, are not of the square: they are not its most central runs.
    others = [planted(f"deep{depth}", 100, 9.0, data="a", depth=depth) for depth in (3, 4)]
    for run in others:
        run.conditions["architecture"] = "mlp"  # type: ignore[index]
    assert non_additivity(quickly([*runs, *others])).verdict == verdict
    assert non_additivity(quickly(runs[:9])).verdict == CANNOT_TELL


def test_cross_entropy_alone() -> None:
    never = [planted(f"n{seed}", NEVER_YET, loss="ce", seed=seed) for seed in range(60)]
    assert cross_entropy(quickly(never)).verdict == CONFIRMED
    few = cross_entropy(quickly(never[:9]))
    assert (few.verdict, few.interval) == (CANNOT_TELL, "share reached [0%, 34%]")
    never = never[:5]
    found = cross_entropy(quickly([*never, planted("once", 100, loss="ce")]))
    assert found.verdict == NOT_CONFIRMED
    assert "1 of 6 runs" in found.measured
    assert cross_entropy(quickly([planted("mse", 100, loss="mse")])).verdict == CANNOT_TELL


def with_scores(run: Trajectory, pscore: float, msp: float) -> Trajectory:
    auroc = {"pscore": {"near": pscore}, "msp": {"near": msp}}
    return dataclasses.replace(run, records=[dataclasses.replace(each, auroc=auroc) for each in run.records])


@pytest.mark.parametrize(
    ("pscore", "count", "verdict"), [(90, 8, CONFIRMED), (70, 8, NOT_CONFIRMED), (90, 2, CANNOT_TELL)]
)
def test_early_detection(pscore: float, count: int, verdict: str) -> None:
    runs = [with_scores(planted(f"r{depth}", 100, depth=depth), pscore, 80) for depth in range(count)]
    (found,) = early_detection(quickly(runs))
    assert found.verdict == verdict
    seeds = [with_scores(planted(f"r{seed}", 100, seed=seed), pscore, 80) for seed in range(count)]
    assert early_detection(quickly(seeds))[0].verdict == CANNOT_TELL  # one condition
    assert early_detection(quickly([with_scores(planted("r", 10), 90, 80)])) == []  # no epoch before the onset


def test_early_detection_is_at_one_epoch() -> None:
    """Ahead of MSP for most of the training, and by much, does not count: at the tenth epoch it is behind."""
    run = with_scores(planted("r", NEVER_YET), 90, 80)
    first = dataclasses.replace(run.records[0], auroc={"pscore": {"near": 79.0}, "msp": {"near": 80.0}})
    run = dataclasses.replace(run, records=[first, *run.records[1:]])
    assert early_detection(quickly([run]))[0].measured.startswith("by -1.0 points at epoch 10,")
    assert early_detection(quickly([run]), epoch=400)[0].measured.startswith("by +10.0 points at epoch 400,")


@pytest.mark.parametrize(
    ("below", "above", "verdict"),
    [
        (1.0, 1.0, CONFIRMED),
        (0.95, 1.05, CONFIRMED),  # apart, but both are back
        (0.2, 0.2, NOT_CONFIRMED),
        (0.78, 0.94, NOT_CONFIRMED),  # from one side only
        (0.8, 0.8, CANNOT_TELL),
    ],
)
def test_fn_after_an_intervention(below: float, above: float, verdict: str) -> None:
    """fn, scaled by 2 or a half, comes a share of the way back to fn*, a little more with each seed."""
    controls = [planted(f"c{seed}", 100, seed=seed, end=200) for seed in range(3)]
    intervened = []
    for seed, run in enumerate(controls):
        for factor, back in ((0.5, below), (2.0, above)):
            after = factor * 2.0  # fn* is 2
            later = after + (back + 0.02 * (seed - 1)) * (2.0 - after)
            records = []
            for each in run.records:
                collapse = {**each.collapse, "mean_norm_l2": later if each.epoch > 150 else 2.0}
                probe = {"intervention": {"fn_after": after}} if each.epoch == 150 else None
                records.append(dataclasses.replace(each, collapse=collapse, probe=probe))
            intervened.append(Trajectory(f"i{seed}x{factor}", {**run.conditions, "factor": factor}, records))
    assert all(map(is_intervened, intervened))
    assert not any(map(is_intervened, controls))
    assert attractor(quickly(controls), intervened).verdict == verdict
    assert attractor(quickly(controls), intervened[:4]).verdict == CANNOT_TELL
    assert (
        attractor(quickly(controls), [run for run in intervened if run.conditions["factor"] == 2]).verdict != CONFIRMED
    )
    never = [planted(f"c{seed}", NEVER_YET, seed=seed, end=200) for seed in range(3)]
    assert "not tested" in attractor(quickly(never), intervened).measured


@pytest.mark.slow
def test_page_of_findings(tmp_path: Path) -> None:
    """Every claim has a row with its verdict and a rule; the lead in sample stands beside the one left out."""
    runs = [with_scores(run, 90, 80) for run in by_level("depth", {2: 300, 4: 100, 6: 200})]
    for run in runs:
        path = tmp_path / "runs" / run.run / "trajectory.jsonl"
        path.parent.mkdir(parents=True)
        log = TrajectoryFile(path, run.run, run.conditions)
        for record in run.records:
            log.add(record)
    script = ROOT / "scripts" / "study" / "dynamics" / "findings.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs"), "--phase", "last"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    claims = findings(analyse(runs, OnsetRule(phase="last")))
    for claim in claims:
        assert f"| **{claim.verdict}** |" in done.stdout
        assert claim.verdict != CONFIRMED or (claim.q is not None and claim.q < 0.05)
        assert f"- {claim.claim}: {claim.rule}." in done.stdout
    assert "9 runs with 360 measured epochs" in done.stdout
    assert "(in sample " in done.stdout
    empty = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "none")],
        capture_output=True, text=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (empty.returncode, empty.stderr.count("\n")) == (2, 1)


def test_trajectories_of_the_first_version_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was probed, and one with an intervention."""
    assert page.main([str(Path(__file__).parent / "earlier")]) == 0
    text = capsys.readouterr().out
    assert "1 runs with 3 measured epochs, 1 more with an intervention" in text
    assert "no factor has 3 runs whose condition has an onset" in text
    assert "| mlp, digits | end | fgsm 4/255 | 1 | 70.2 | 0.509 | 58.4 |" in text


def test_published_verdicts_are_those_of_the_published_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/dynamics.md has every row that its CSV files give."""
    assert recheck.main([str(ROOT / "docs" / "dynamics")]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 11
    published = (ROOT / "docs" / "dynamics.md").read_text(encoding="utf-8").splitlines()
    assert set(rows) <= set(published)


def test_predictors_of_the_claims_exist() -> None:
    from claims import forecast

    from nci_plugin.dynamics.predictors import PREDICTORS

    assert {forecast.FN, forecast.LOSS} <= set(PREDICTORS)


def test_fn_that_foretells_is_confirmed_and_one_that_does_not_is_not() -> None:
    from claims.forecast import precedence, predictions

    generator = np.random.default_rng(0)

    def verdicts(lead: int, noise: float) -> list[str]:
        runs = []
        for level in range(2, 8):
            for seed in range(2):
                run = planted(f"{level}s{seed}", 50 * level, depth=level, seed=seed, end=500)
                crossing = run.conditions["depth"] * 50 - lead + 10 * round(noise * generator.standard_normal())  # type: ignore[operator]
                fn = [2.0 if each.epoch >= crossing else 3.0 for each in run.records]
                records: list[EpochRecord] = [
                    dataclasses.replace(each, collapse={**each.collapse, "mean_norm_l2": value})
                    for each, value in zip(run.records, fn)
                ]
                runs.append(dataclasses.replace(run, records=records))
        onsets = onsets_of(runs)
        analysis = dataclasses.replace(quickly(runs), skills=compare(runs, onsets))
        return [precedence(analysis).verdict, *(each.verdict for each in predictions(analysis))]

    assert verdicts(lead=40, noise=0)[:2] == [CONFIRMED, CONFIRMED]
    assert verdicts(lead=40, noise=0)[2] == NOT_CONFIRMED  # the training loss is as good
    assert verdicts(lead=0, noise=0)[0] == NOT_CONFIRMED  # at the onset, not before
