"""``nci-ood compare`` from end to end: on a tiny benchmark that was evaluated, and on directories made up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from result_rows import row
from sklearn.metrics import roc_auc_score
from tiny import Tiny, tree

from nci_plugin.cli.main import main
from nci_plugin.comparison.compare import standings
from nci_plugin.metrics import METRIC_COLUMNS, measure

pytestmark = pytest.mark.usefixtures("one_thread")
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module", params=[1, 3], ids=["one network", "three seeds"])
def evaluated(request, tmp_path_factory):
    tiny = Tiny(tmp_path_factory.mktemp("tiny"), seeds=request.param)
    checkpoint = tiny.checkpoints if request.param > 1 else tiny.checkpoint
    assert main(tiny.eval("msp", "nci", "pytorch_ood:entropy", ckpt_path=checkpoint)) == 0
    return tiny.output


def seeds_of(output):
    return sorted(path.name for path in output.glob("s[0-9]")) or [""]


def results(output):
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def compared(capsys, *arguments):
    """What a comparison prints and its JSON, which is written beside its first directory."""
    path = Path(arguments[0]).parent / "comparison.json"
    assert main(["compare", *map(str, arguments), "--json", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(len(line) <= 80 for line in captured.out.splitlines() if not line.startswith("written to")), captured.out
    return captured.out, json.loads(path.read_text(encoding="utf-8"))


def refused(capsys, *arguments):
    """The one line that an error prints."""
    assert main(["compare", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


# --------------------------------------------------- a tiny benchmark, evaluated


def test_auroc_of_a_run(evaluated, capsys):
    """Values are the means of results.jsonl; every pair is there, in both groups; nothing in the run has changed."""
    before = tree(evaluated)
    out, record = compared(capsys, evaluated, "--figure", evaluated.parent / "figures")
    assert tree(evaluated) == before
    comparison = record["comparisons"][0]
    assert (comparison["benchmark"], comparison["networks"]) == ("tiny", seeds_of(evaluated))
    rows = results(evaluated)
    for value in comparison["values"]:
        own = [
            each["auroc"]
            for each in rows
            if (each["detector"], each["setting"], each["dataset"])
            == (value["detector"], "ood", f"{value['group']}ood")
        ]
        assert value["by_network"] == pytest.approx(own)
        assert value["value"] == pytest.approx(np.mean(own))
        assert value["low"] <= value["value"] <= value["high"]
    assert len(comparison["differences"]) == 2 * 3
    assert "tiny, ood: AUROC in percent" in out
    assert "DeLong, p by Holm over 6 differences" in " ".join(out.split())
    assert "fewer than 30 samples, so intervals are rough: id/test (8)" in out
    assert "nci - pytorch_ood:entropy" in out
    for name in ("forest", "critical_difference"):
        assert (evaluated.parent / "figures" / f"{name}.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("metric", ["fpr95", "aurc", "augrc", "autc", "csid_auroc", "csid_rejection"])
def test_metrics_from_the_stored_scores(evaluated, capsys, metric):
    _, record = compared(capsys, evaluated, "--metric", metric, "--ood-share", "0.3", "--detectors", "msp", "nci")
    pairs = {
        "csid_auroc": [("csid/csid", "near/near"), ("csid/csid", "near/near2")],
        "csid_rejection": [("id/test", "csid/csid")],
    }.get(metric, [("id/test", "near/near"), ("id/test", "near/near2")])
    expected = []
    for seed in seeds_of(evaluated):
        with np.load(evaluated / seed / "scores" / "nci.npz") as scores:
            with np.load(evaluated / seed / "scores" / "predictions.npz") as answers:
                wrong = answers["id/test/predictions"] != answers["id/test/labels"]
            each = [measure(metric, scores[one], scores[two], wrong, 0.3) for one, two in pairs]
        expected.append(np.mean(each))
    value = next(each for each in record["comparisons"][0]["values"] if each["detector"] == "nci")
    assert value["by_network"] == pytest.approx(expected)
    assert f"{1000} bootstrap replicates" in record["comparisons"][0]["method"] or metric == "csid_auroc"


def test_full_spectrum_against_one(evaluated, capsys):
    out, record = compared(
        capsys, evaluated, "--setting", "fsood", "--against", "msp", "--figure", evaluated.parent / "against"
    )
    comparison = record["comparisons"][0]
    names = [(each["first"], each["second"]) for each in comparison["differences"] if each["group"] == "near"]
    assert names == [("nci", "msp"), ("pytorch_ood:entropy", "msp")]
    assert "same letter" not in out
    rows = {
        each["seed"]: each["auroc"]
        for each in results(evaluated)
        if (each["detector"], each["setting"], each["dataset"]) == ("nci", "fsood", "nearood")
    }
    value = next(each for each in comparison["values"] if (each["detector"], each["group"]) == ("nci", "near"))
    assert value["by_network"] == pytest.approx(list(rows.values()))
    assert [path.name for path in (evaluated.parent / "against").iterdir()] == ["forest.png"]


def test_same_numbers_every_time(evaluated, capsys):
    first = compared(capsys, evaluated, "--metric", "fpr95")
    assert compared(capsys, evaluated, "--metric", "fpr95") == first
    _, other = compared(capsys, evaluated, "--metric", "fpr95", "--seed", "1")
    assert other["comparisons"][0]["values"] != first[1]["comparisons"][0]["values"]


# ------------------------------------------------------------- columns of eval


EVERY_METRIC = ["fpr_at_id_tpr95", "aurc", "augrc", "autc", "csid_auroc", "csid_rejection"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_columns_of_eval(tmp_path, capsys, monkeypatch, seeds):
    """Chosen metrics are those of the stored scores, with intervals or without; OpenOOD's CSV is what it was."""
    monkeypatch.setenv("COLUMNS", "10000")
    tiny = Tiny(tmp_path / "tiny", seeds=seeds)
    checkpoint = tiny.checkpoints if seeds > 1 else tiny.checkpoint
    arguments = tiny.eval("msp", "nci", ckpt_path=checkpoint)
    assert main(arguments) == 0
    before = {path: path.read_bytes() for path in tiny.output.rglob("*.csv")}
    default = capsys.readouterr().out
    assert main([*arguments, "--metrics", *EVERY_METRIC, "--ood-share", "0.3", "--data-sets"]) == 0
    plain = capsys.readouterr().out
    assert {path: path.read_bytes() for path in tiny.output.rglob("*.csv")} == before
    assert main([*arguments, "--intervals"]) == 0
    with_intervals = capsys.readouterr().out

    first, second = (plain.split(f"tiny, {title}")[1].split("\n\n")[0] for title in ("standard OOD", "full-spectrum"))
    assert "csid" not in first.split("\n", 1)[1], "not in the standard setting"
    for label in (METRIC_COLUMNS[name].label for name in EVERY_METRIC):
        assert label in second
    assert "AURC: 0.3 of all inputs OOD" in first
    splits = {"augrc": ("id/test", "near/near"), "csid_rejection": ("id/test", "csid/csid")}
    for name, text in (("augrc", first), ("csid_rejection", second)):
        values = []
        for seed in seeds_of(tiny.output):
            with np.load(tiny.output / seed / "scores" / "nci.npz") as scores:
                with np.load(tiny.output / seed / "scores" / "predictions.npz") as answers:
                    wrong = answers["id/test/predictions"] != answers["id/test/labels"]
                one, two = splits[name]
                values.append(measure(name, scores[one], scores[two], wrong, 0.3))
        expected = f"{np.mean(values):.2f}" + (f"+-{np.std(values):.2f}" if seeds > 1 else "")
        assert expected in next(line for line in text.splitlines() if line.startswith("nci")).split()

    rows = results(tiny.output)
    nearood = [
        row["auroc"] for row in rows if (row["detector"], row["setting"], row["dataset"]) == ("nci", "ood", "nearood")
    ]
    assert f"{np.mean(nearood):.2f} [" in with_intervals
    over = "this network alone" if seeds == 1 else "2 networks"
    assert "FPR@95: 95 % intervals over images" in with_intervals
    assert over in with_intervals
    assert "95 % intervals" not in default


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "aurocs"], "unknown metric of --metrics 'aurocs' (did you mean 'auroc'?)"),
        (["--metrics", "?"], f"unknown metric of --metrics '?'; known: {', '.join(sorted(METRIC_COLUMNS))}"),
        (["--metrics", "aurc", "--ood-share", "0"], "--ood-share: must lie between 0 and 1"),
    ],
)
def test_columns_that_cannot_be(tmp_path, capsys, options, message):
    tiny = Tiny(tmp_path / "tiny")
    assert main([*tiny.eval("msp"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not tiny.output.exists()


# ---------------------------------------------------------------- ties as ties


def test_rank_and_page_show_ties_as_ties(tmp_path, capsys):
    """Two detectors of the same scores share their ranks, one that is far behind does not; the page says the same."""
    path = made_up(tmp_path / "a", detectors=("msp", "nci", "ebo"), seeds=("",), shift=2.0)
    scores = dict(np.load(path / "scores" / "ebo.npz"))
    np.savez(path / "scores" / "nci.npz", **scores)
    np.savez(path / "scores" / "msp.npz", **{split: -values for split, values in scores.items()})
    assert main(["leaderboard", "rank", str(path)]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line[:1].isdigit() and "no rank" not in line]
    ranks = {row[-1]: row[:2] for row in rows}
    assert ranks == {"nci": ["1-2", "1-2"], "ebo": ["1-2", "1-2"], "msp": ["3", "3"]}
    assert main(["report", str(path)]) == 0
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "rank near" in page
    assert page.count("<td>1-2</td>") == 4


def test_the_interval_of_one_detector_is_that_which_it_has_among_others(tmp_path):
    """``leaderboard rank --detectors nci`` took the own number for exact, and showed no tie."""
    path = made_up(tmp_path / "a", seeds=("s0", "s1", "s2"))
    alone, among = (standings(path, names, ["ood"]) for names in (["nci"], ["nci", "msp"]))
    assert (alone.ranks, alone.note) == ({}, "")
    for group in ("near", "far"):
        assert alone.intervals["ood", group, "nci"] == pytest.approx(among.intervals["ood", group, "nci"])


def test_rank_and_page_without_scores_say_what_to_run(tmp_path, capsys):
    path = made_up(tmp_path / "a")
    (path / "scores" / "nci.npz").unlink()
    assert main(["leaderboard", "rank", str(path)]) == 0
    out = capsys.readouterr().out
    assert "which detectors tie is not known: scores of 'nci'" in out
    assert f"run: nci-ood eval b --detectors nci --output {path}" in out
    assert main(["report", str(path)]) == 0
    assert "which detectors tie is not known" in (path / "report.html").read_text(encoding="utf-8")


# ----------------------------------------------------------- directories made up


def made_up(path, benchmark="b", detectors=("msp", "nci"), seeds=("",), seed=0, shift=1.0, classes=False):
    """A results directory of random scores; images and predictions follow from the benchmark alone."""
    sizes = {"id/test": 90, "near/one": 80, "far/two": 70}
    images = np.random.default_rng(sum(benchmark.encode()))
    labels = {split: images.integers(0, 2, size) for split, size in sizes.items()}
    if not classes:
        labels.update({split: np.full(sizes[split], -1) for split in ("near/one", "far/two")})
    predictions = {split: images.integers(0, 2, size) for split, size in sizes.items()}
    answers = {f"{split}/labels": values for split, values in labels.items()}
    answers.update({f"{split}/predictions": values for split, values in predictions.items()})
    generator, rows = np.random.default_rng(seed), []
    for network in seeds:
        folder = path / network / "scores"
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", **answers)
        for place, detector in enumerate(detectors):
            scores = {
                split: generator.normal(shift + place if split == "id/test" else 0, 1, size).astype(np.float32)
                for split, size in sizes.items()
            }
            np.savez(folder / f"{detector}.npz", **scores)
            for group, name, n_ood in (
                *(("near", "one", 80), ("near", "nearood", 80)),
                *(("far", "two", 70), ("far", "farood", 70)),
            ):
                rows.append(
                    row(detector, group, name, seed=network, benchmark=benchmark, n_id=90, n_ood=n_ood).to_json()
                )
    (path / "results.jsonl").write_text("\n".join(rows) + "\n")
    return path


def test_difference_that_is_there(tmp_path, capsys):
    out, record = compared(capsys, made_up(tmp_path / "a", detectors=("msp", "nci", "ebo")))
    ties = record["comparisons"][0]["ties"]["near"]
    assert ["msp"] in ties
    assert ["ebo", "msp"] not in ties
    found = {(each["first"], each["second"]): each for each in record["comparisons"][0]["differences"][:3]}
    assert found["msp", "ebo"]["adjusted"] < 0.001
    with np.load(tmp_path / "a" / "scores" / "ebo.npz") as scores:
        is_id = np.arange(170) < 90
        auroc = roc_auc_score(is_id, np.concatenate([scores["id/test"], scores["near/one"]]))
    assert f"ebo   {100 * auroc:.2f}" in out


def test_many_pairs_are_not_all_printed(tmp_path, capsys):
    names = tuple(f"a_detector_with_a_longer_name_{place}" for place in range(11))
    out, record = compared(capsys, made_up(tmp_path / "a", detectors=names, shift=0.0))
    assert len(record["comparisons"][0]["differences"]) == 2 * 55
    assert out.count("the other of 55 pairs: --json FILE, or --against NAME") == 2
    assert out.count(" - a_detector") == 2 * 10


def test_two_directories_of_one_benchmark(tmp_path, capsys):
    """Detectors of both, and a name that both have told apart by the directory."""
    first = made_up(tmp_path / "first", detectors=("msp", "nci"))
    second = made_up(tmp_path / "second", detectors=("nci", "ebo"), seed=5)
    _, record = compared(capsys, first, second)
    names = [value["detector"] for value in record["comparisons"][0]["values"][:4]]
    assert names == ["msp", "nci@first", "nci@second", "ebo"]
    _, record = compared(capsys, first, second, "--detectors", "nci")
    assert [value["detector"] for value in record["comparisons"][0]["values"][:2]] == ["nci@first", "nci@second"]
    _, record = compared(capsys, first, first)
    assert len(record["comparisons"]) == 1


def test_directories_that_do_not_belong_together(tmp_path, capsys):
    first = made_up(tmp_path / "first")
    assert "of the networks 's0, s1', not ''" in refused(capsys, first, made_up(tmp_path / "seeds", seeds=("s0", "s1")))
    for what in ("labels", "predictions"):
        other = made_up(tmp_path / what, detectors=("ebo",))
        file = other / "scores" / "predictions.npz"
        with np.load(file) as arrays:
            changed = dict(arrays)
        changed[f"id/test/{what}"][3] += 1
        np.savez(file, **changed)
        assert f"but the {what} differ" in refused(capsys, first, other)


def test_friedman_over_five_benchmarks(tmp_path, capsys):
    names = ("msp", "nci", "ebo", "knn")
    paths = [made_up(tmp_path / str(place), f"b{place}", names, seed=place) for place in range(5)]
    out, record = compared(capsys, *paths, "--figure", tmp_path / "figures")
    assert [each["group"] for each in record["over_benchmarks"]] == ["near", "far"]
    test = record["over_benchmarks"][0]
    assert test["mean_ranks"][0][0] == "knn"
    assert test["p"] < 0.05
    assert "near over 5 benchmarks: Friedman chi2" in out
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures[-1] == "ranks.png"
    assert len(figures) == 11
    out, record = compared(capsys, *paths[:4])
    assert "near over 4 benchmarks: no power: 5 benchmarks are needed" in out
    assert record["over_benchmarks"][0]["p"] is None


def test_worst_groups(tmp_path, capsys):
    path = made_up(tmp_path / "a", seeds=("s0", "s1"), classes=True)
    out, record = compared(capsys, path, "--worst-groups")
    groups = record["worst_groups"]["b"]["msp"]
    assert len(groups) == 5
    assert [each["auroc"] for each in groups] == sorted(each["auroc"] for each in groups)
    assert {each["kind"].split(",")[0] for each in groups} == {"predicted class", "OOD class"}
    assert "b, msp: worst groups" in out
    out, _ = compared(capsys, made_up(tmp_path / "b"), "--worst-groups")
    assert "OOD class" not in out


# ----------------------------------------------------------------- bad input


def test_missing_scores_say_what_to_run(tmp_path, capsys):
    path = made_up(tmp_path / "a", seeds=("s0", "s1"))
    (path / "s1" / "scores" / "nci.npz").unlink()
    error = refused(capsys, path)
    assert f"scores of 'nci' in '{path / 's1'}': are missing" in error
    assert f"run: nci-ood eval b --detectors nci --output {path}" in error
    (path / "s0" / "scores" / "predictions.npz").unlink()
    assert f"run: nci-ood eval b --output {path}" in refused(capsys, path)
    shutil.rmtree(path)
    assert "there is no results.jsonl" in refused(capsys, path)


def test_detectors_that_were_not_scored_for_every_seed(tmp_path, capsys):
    path = made_up(tmp_path / "a", detectors=("msp", "nci", "ebo"), seeds=("s0", "s1"))
    rows = [line for line in (path / "results.jsonl").read_text().splitlines() if '"ebo"' not in line or '"s0"' in line]
    (path / "results.jsonl").write_text("\n".join(rows) + "\n")
    out, record = compared(capsys, path)
    assert {value["detector"] for value in record["comparisons"][0]["values"]} == {"msp", "nci"}
    assert "b: not scored for every seed, left out: ebo" in out
    assert "detector 'ebo': was not scored for every seed" in refused(capsys, path, "--detectors", "ebo", "msp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores.pop("near/one"), "'near/one' must be 80 numbers, one a sample, got nothing"),
        (lambda scores: scores.update({"id/test": scores["id/test"][:-1]}), "got float32 of shape (89,)"),
        (lambda scores: scores.update({"id/test": scores["id/test"] > 0}), "got bool of shape (90,)"),
        (lambda scores: scores["far/two"].__setitem__(5, np.nan), "'far/two' holds NaN or infinity"),
        (lambda scores: scores["far/two"].__setitem__(5, np.inf), "'far/two' holds NaN or infinity"),
    ],
)
def test_scores_that_cannot_be_used(tmp_path, capsys, change, message):
    path = made_up(tmp_path / "a")
    with np.load(path / "scores" / "nci.npz") as arrays:
        scores = dict(arrays)
    change(scores)
    np.savez(path / "scores" / "nci.npz", **scores)
    error = refused(capsys, path)
    assert message in error
    assert "; evaluate again" in error or "run: nci-ood eval b --detectors nci" in error


def test_results_of_an_earlier_version_lack_predictions(tmp_path, capsys):
    path = made_up(tmp_path / "a")
    assert main(["compare", str(path)]) == 0
    with_predictions = capsys.readouterr().out
    shutil.copytree(path, tmp_path / "b")
    for each in ("a", "b"):
        (tmp_path / each / "scores" / "predictions.npz").unlink()
    assert main(["compare", str(path)]) == 0
    assert capsys.readouterr().out == with_predictions
    for arguments in (["--metric", "augrc"], ["--worst-groups"], [str(tmp_path / "b")]):
        assert main(["compare", str(path), *arguments]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert f"predictions '{path / 'scores' / 'predictions.npz'}': are missing; run: nci-ood eval b" in told.err


def test_damaged_files(tmp_path, capsys):
    path = made_up(tmp_path / "a")
    for name in ("nci", "predictions"):
        (path / "scores" / f"{name}.npz").write_bytes(b"PK\x03\x04 no archive")
        assert "cannot be read" in refused(capsys, path)


def test_predictions_that_cannot_be_used(tmp_path, capsys):
    path = made_up(tmp_path / "a")
    file = path / "scores" / "predictions.npz"
    with np.load(file) as arrays:
        answers = dict(arrays)
    for changed in (
        {**answers, "id/test/predictions": answers["id/test/predictions"] + 0.5},
        {**answers, "id/test/predictions": answers["id/test/predictions"][:5]},
        {name: array for name, array in answers.items() if name != "id/test/labels"},
        {name: array for name, array in answers.items() if not name.startswith("id/test")},
        {name: array for name, array in answers.items() if name != "near/one/predictions"},
    ):
        np.savez(file, **changed)
        assert "run: nci-ood eval b" in refused(capsys, path)


@pytest.mark.parametrize(
    "changes", [{"benchmark": "../b"}, {"detector": "a/b"}, {"seed": "../s0"}, {"dataset": "a\nb"}]
)
def test_names_that_are_no_names(tmp_path, capsys, changes):
    path = made_up(tmp_path / "a")
    own = {"detector": "nci", "group": "near", "dataset": "one", "seed": "", "benchmark": "b", **changes}
    rows = [row(**own).to_json()]
    (path / "results.jsonl").write_text("\n".join(rows) + "\n")
    before = tree(tmp_path)
    assert "a name must be" in refused(capsys, path, "--figure", tmp_path / "figures")
    assert tree(tmp_path) == before


def test_rows_of_another_run(tmp_path, capsys):
    path = made_up(tmp_path / "a")
    rows = (path / "results.jsonl").read_text().splitlines()
    rows[0] = row("msp", "near", "one", seed="", benchmark="b", n_id=90, n_ood=81).to_json()
    (path / "results.jsonl").write_text("\n".join(rows) + "\n")
    assert "'near/one' has 80 samples and its row 81" in refused(capsys, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "aurocs"], "unknown metric 'aurocs' (did you mean 'auroc'?)"),
        (["--metric", "?"], f"unknown metric '?'; known: {', '.join(sorted(METRIC_COLUMNS))}"),
        (["--replicates", "999"], "--replicates: must be a whole number, at least 1000, got 999"),
        (["--seed", "-1"], "--seed"),
        (["--ood-share", "1"], "--ood-share: must lie between 0 and 1"),
        (["--ood-share", "nan"], "--ood-share: must lie between 0 and 1"),
        (["--against", "mps"], "unknown detector to compare against 'mps' (did you mean 'msp'?)"),
        (["--detectors", "msp", "mci"], "unknown detector 'mci' (did you mean 'nci'?)"),
        (["--detectors", "msp"], "at least two detectors are compared, got msp"),
        (["--setting", "fsood"], "has no covariate-shifted set"),
        (["--metric", "csid_rejection"], "has no covariate-shifted set"),
        (["--json", "."], "--json: must be a file"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, capsys, options, message):
    path = made_up(tmp_path / "a")
    before = tree(tmp_path)
    assert message in refused(capsys, path, *options)
    assert tree(tmp_path) == before


def test_every_benchmark_is_checked_first(tmp_path, capsys):
    """The second benchmark lacks a detector: nothing of the first is printed."""
    paths = [made_up(tmp_path / "a", "b1"), made_up(tmp_path / "b", "b2", detectors=("msp",))]
    assert "benchmark 'b2': at least two detectors are compared" in refused(capsys, *paths)
