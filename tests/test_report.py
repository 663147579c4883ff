"""Results, OpenOOD's CSV files and the tables of a terminal, for hand-made rows."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nci_plugin.checks import PluginError
from nci_plugin.evaluation.results import METRICS, Result, file_name, read_results, to_csv
from nci_plugin.report.tables import choices_table, detectors_by_near_auroc, setting_table
from results import SEEDS, row, rows_of

# -------------------------------------------------------------------- CSV

NUMBERS = {  # three networks of one detector: FPR@95, AUROC, AUPR_IN, AUPR_OUT
    "cifar100": [(50.0, 87.70, 80.0, 70.0), (51.0, 88.10, 81.0, 71.0), (52.0, 88.30, 82.0, 72.0)],
    "nearood": [(50.0, 87.70, 80.0, 70.0), (51.0, 88.10, 81.0, 71.0), (52.0, 88.30, 82.0, 72.0)],
    "mnist": [(1.0, 99.0, 100.0, 0.0), (1.0, 99.0, 100.0, 0.0), (1.0, 99.0, 100.0, 0.0)],
    "farood": [(1.004, 99.006, 99.999, 0.004), (1.004, 99.006, 99.999, 0.004), (1.004, 99.006, 99.999, 0.004)],
}
ACCURACIES = (95.0, 95.3, 94.9)


def three_seeds():
    return [
        row(
            dataset=dataset,
            group="near" if dataset in ("cifar100", "nearood") else "far",
            seed=seed,
            acc=ACCURACIES[number],
            **dict(zip(("fpr95", "auroc", "aupr_in", "aupr_out"), NUMBERS[dataset][number])),
        )
        for number, seed in enumerate(SEEDS)
        for dataset in NUMBERS
    ]


def test_csv_of_three_seeds_is_openoods():
    """Means and population standard deviations: of 87.7, 88.1, 88.3 it is 0.249 (the sample's 0.306)."""
    assert to_csv(three_seeds(), "nci", "ood", over_seeds=True) == (
        ",FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC\n"
        "cifar100,51.00 ± 0.82,88.03 ± 0.25,81.00 ± 0.82,71.00 ± 0.82,95.07 ± 0.17\n"
        "nearood,51.00 ± 0.82,88.03 ± 0.25,81.00 ± 0.82,71.00 ± 0.82,95.07 ± 0.17\n"
        "mnist,1.00 ± 0.00,99.00 ± 0.00,100.00 ± 0.00,0.00 ± 0.00,95.07 ± 0.17\n"
        "farood,1.00 ± 0.00,99.01 ± 0.00,100.00 ± 0.00,0.00 ± 0.00,95.07 ± 0.17\n"
    )


def test_csv_of_one_network_has_two_decimals():
    rows = [result for result in three_seeds() if result.seed == "s0"]
    assert to_csv(rows, "nci", "ood", over_seeds=False) == (
        ",FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC\n"
        "cifar100,50.00,87.70,80.00,70.00,95.00\n"
        "nearood,50.00,87.70,80.00,70.00,95.00\n"
        "mnist,1.00,99.00,100.00,0.00,95.00\n"
        "farood,1.00,99.01,100.00,0.00,95.00\n"
    )


def test_csv_of_one_seed_still_has_its_spread():
    rows = [result for result in three_seeds() if result.seed == "s1"]
    text = to_csv(rows, "nci", "ood", over_seeds=True)
    assert text.splitlines()[1] == "cifar100,51.00 ± 0.00,88.10 ± 0.00,81.00 ± 0.00,71.00 ± 0.00,95.30 ± 0.00"


def test_csv_holds_one_detector_and_setting_in_the_order_of_the_sets():
    results = [
        *rows_of("msp", near=1.0),
        *rows_of("nci", near=90.0, near_sets=("tin", "cifar100")),
        *rows_of("nci", near=50.0, setting="fsood"),
    ]
    lines = to_csv(results, "nci", "ood", over_seeds=False).splitlines()
    assert [line.split(",")[0] for line in lines] == ["", "tin", "cifar100", "nearood", "mnist", "farood"]
    assert [line.split(",")[2] for line in lines[1:]] == ["90.00", "91.00", "90.00", "92.00", "92.00"]
    assert to_csv(results, "nci", "fsood", over_seeds=False).splitlines()[1].split(",")[2] == "50.00"


def test_the_order_of_seeds_changes_nothing():
    shuffled = sorted(three_seeds(), key=lambda result: result.seed, reverse=True)
    assert to_csv(shuffled, "nci", "ood", over_seeds=True) == to_csv(three_seeds(), "nci", "ood", over_seeds=True)


def test_columns_are_openoods():
    assert list(METRICS.values()) == ["FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC"]


def test_names_of_adapters_are_file_names():
    assert file_name("pytorch_ood:knn") == "pytorch_ood_knn"
    assert file_name("nci") == "nci"


# -------------------------------------------------------------------- Result

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=12)
NAMES = st.text(st.characters(exclude_characters="/\\=+-@").filter(str.isprintable), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
"""What the gate of names lets through; `test_stored_rows` tests what it refuses."""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    auroc=st.floats(0, 100),
    seed=NAMES | st.just(""),
    name=NAMES,
    values=st.dictionaries(TEXT, FINITE | st.integers() | TEXT | st.booleans()),
)
def test_json_round_trip(auroc, seed, name, values):
    result = row(auroc=auroc, seed=seed, dataset=name, hyperparameters=values)
    line = result.to_json()
    assert len(line.splitlines()) == 1
    assert Result.from_json(line) == result


def test_json_has_every_field_by_name():
    fields = json.loads(row().to_json())
    assert len(fields.pop("checksum")) == 32
    assert fields == asdict(row())


def test_a_line_of_before_checksums_is_read():
    assert Result.from_json(json.dumps(asdict(row()))) == row()


def test_every_flipped_bit_of_results_is_noticed(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{row().to_json()}\n{row(seed='s1').to_json()}\n")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(PluginError, match=r"results '.*results.jsonl'"):
            read_results(path)


def test_results_that_were_cut_short_within_a_line_are_noticed(tmp_path):
    path = tmp_path / "results.jsonl"
    line = row().to_json()
    for length in range(1, len(line)):
        path.write_text(f"{line}\n{line[:length]}")
        with pytest.raises(PluginError, match="line 2"):
            read_results(path)


def write_lines(path, results):
    path.write_text("".join(result.to_json() + "\n" for result in results), encoding="utf-8")


def test_files_round_trip(tmp_path):
    results = [*three_seeds(), row(detector="pytorch_ood:knn", hyperparameters={"k": 3, "method": None})]
    write_lines(tmp_path / "results.jsonl", results)
    assert read_results(tmp_path / "results.jsonl") == results
    assert len((tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()) == len(results)


@pytest.mark.parametrize("path", ["a\u2028b", "a\x85b", "a\nb", "Größe ±", "a\udcffb"])
def test_paths_of_any_characters_round_trip(tmp_path, path):
    """A checkpoint's path is part of the provenance; \\udcff is a byte that is not UTF-8."""
    results = [row(provenance={"checkpoint": path}), row(detector="msp")]
    write_lines(tmp_path / "results.jsonl", results)
    assert read_results(tmp_path / "results.jsonl") == results


def without(name):
    raw = asdict(row())
    del raw[name]
    return json.dumps(raw)


@pytest.mark.parametrize("name", [field.name for field in fields(Result) if field.name != "fpr_at_id_tpr95"])
def test_a_missing_field_is_an_error(name):
    with pytest.raises(PluginError, match=f"{name}.*evaluate again"):
        Result.from_json(without(name))


def test_an_unknown_field_is_an_error():
    with pytest.raises(PluginError, match="fpr80"):
        Result.from_json(json.dumps({**asdict(row()), "fpr80": 3.0}))


@pytest.mark.parametrize("line", ["", "{", "[]", "3", "null", '"text"', "{}"])
def test_a_line_that_is_no_result_is_an_error(line):
    with pytest.raises(PluginError, match="not a line that this version wrote"):
        Result.from_json(line)


def test_the_number_of_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{row().to_json()}\n{row(seed='s1').to_json()}\n{without('auroc')}\n")
    with pytest.raises(PluginError, match=r"results '.*results.jsonl' line 3: .*auroc"):
        read_results(path)


def test_a_file_that_is_no_text_or_not_there(tmp_path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(PluginError, match="No such file"):
        read_results(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PluginError, match="not a text file"):
        read_results(path)


def test_rows_of_one_detector_set_and_network_have_one_key():
    assert row().key == row(auroc=3.0, hyperparameters={}).key
    others = [row(detector="msp"), row(setting="fsood"), row(dataset="cifar100"), row(seed="s1")]
    assert len({row().key, *(other.key for other in others)}) == 5


# -------------------------------------------------------------------- tables


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")


def test_detectors_come_by_their_mean_near_auroc():
    results = [
        *rows_of("low", near=70.0, far=99.0),
        *rows_of("high", near=80.0, seed="s0"),
        *rows_of("high", near=90.0, seed="s1"),
        *rows_of("middle", near=84.0, far=1.0),
        *rows_of("elsewhere", near=99.0, setting="fsood"),
    ]
    assert detectors_by_near_auroc(results, "ood") == ["high", "middle", "low"]
    assert detectors_by_near_auroc(results, "fsood") == ["elsewhere"]
    assert detectors_by_near_auroc([], "ood") == []


def test_equal_detectors_keep_their_order():
    results = [*rows_of("b"), *rows_of("a"), *rows_of("c")]
    assert detectors_by_near_auroc(results, "ood") == ["b", "a", "c"]


def test_without_near_sets_far_auroc_decides():
    results = [result for result in [*rows_of("a", far=80.0), *rows_of("b", far=90.0)] if result.group == "far"]
    assert detectors_by_near_auroc(results, "ood") == ["b", "a"]


def split_table(text):
    """Title, header lines, and the cells of each detector."""
    title, groups, metrics, *lines = text.splitlines()
    return title, groups, metrics.split(), {line.split()[0]: line.split()[1:] for line in lines}


def test_one_network():
    results = [*rows_of("msp", near=80.0, far=85.0, seed=""), *rows_of("nci", near=90.0, far=92.0, seed="")]
    title, groups, metrics, cells = split_table(setting_table(results, "ood"))
    assert title == "cifar10, standard OOD: ACC 95.06 on 9000 ID samples; in percent, one network"
    assert groups.split() == ["nearood", "farood", "=", "mnist", "cifar100", "tin"]
    assert metrics == ["FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT"] * 4
    assert list(cells) == ["nci", "msp"]
    assert cells["nci"][1::4] == ["90.00", "92.00", "90.00", "91.00"]
    assert cells["msp"][1::4] == ["80.00", "85.00", "80.00", "81.00"]


def test_three_networks():
    results = [
        result
        for i, seed in enumerate(SEEDS)
        for result in [*rows_of("nci", near=90.0 + i, seed=seed, acc=95.0 + i), *rows_of("msp", 70.0, 70.0, seed)]
    ]
    text = setting_table(results, "ood")
    title, _, _, cells = split_table(text)
    assert title == (
        "cifar10, standard OOD: ACC 96.00 ± 0.82 on 9000 ID samples; in percent, mean ± std over s0, s1, s2"
    )
    assert cells["nci"][1::4] == ["91.00±0.82", "92.00±0.00", "91.00±0.82", "92.00±0.82"]
    assert cells["msp"][1] == "70.00±0.00"


def test_the_full_spectrum():
    standard = rows_of("nci", seed="")
    results = [*standard, *rows_of("nci", near=55.0, seed="", setting="fsood", acc=80.5, n_id=19000)]
    title, _, _, cells = split_table(setting_table(results, "fsood"))
    assert title.startswith("cifar10, full-spectrum OOD (covariate-shifted samples count as ID): ACC 80.50 on 19000 ID")
    assert cells["nci"][1] == "55.00"
    assert setting_table(standard, "fsood") == ""


@pytest.mark.parametrize("over_seeds", [True, False])
def test_each_detector_and_the_accuracy_stand_once(over_seeds):
    names = ["nci", "msp", "mls", "ebo", "knn"]
    results = [result for i, name in enumerate(names) for result in rows_of(name, near=80.0 + i)]
    text = setting_table(results, "ood")
    lines = text.splitlines()
    for name in names:
        assert sum(line.split()[0] == name for line in lines) == 1
    assert text.count("ACC") == 1
    assert "ACC" in lines[0]
    assert text.count("95.06") == 1


def test_a_group_of_one_set_shares_its_columns():
    results = rows_of("nci", near_sets=("unseen",))
    _, groups, metrics, _ = split_table(setting_table(results, "ood"))
    assert "nearood = unseen" in groups
    assert "farood = mnist" in groups
    assert len(metrics) == 2 * 4


def test_a_group_of_two_sets_has_columns_of_its_own_and_of_both():
    _, groups, metrics, _ = split_table(setting_table(rows_of("nci"), "ood"))
    assert "nearood =" not in groups
    assert [groups.index(name) for name in ("nearood", "farood = mnist", "cifar100", "tin")] == sorted(
        groups.index(name) for name in ("nearood", "farood = mnist", "cifar100", "tin")
    )
    assert len(metrics) == 4 * 4


def test_a_narrow_terminal_splits_the_table_but_loses_no_number(monkeypatch):
    results = [*rows_of("nci"), *rows_of("msp", near=70.0)]
    wide = setting_table(results, "ood")
    monkeypatch.setenv("COLUMNS", "60")
    narrow = setting_table(results, "ood")
    assert max(len(line) for line in narrow.splitlines()[1:]) <= 62
    numbers = sorted(word for line in wide.splitlines()[1:] for word in line.split() if word[0].isdigit())
    assert sorted(word for line in narrow.splitlines()[1:] for word in line.split() if word[0].isdigit()) == numbers


def test_a_benchmark_without_near_sets():
    results = [result for result in rows_of("nci") if result.group == "far"]
    _, groups, metrics, cells = split_table(setting_table(results, "ood"))
    assert groups.split() == ["farood", "=", "mnist"]
    assert len(metrics) == len(cells["nci"]) == 4


# -------------------------------------------------------------------- choices


def choices(results):
    header, *lines = choices_table(results).splitlines()
    assert header.split()[:7] == ["detector", "fit", "s", "search", "s", "score", "s"]
    return {line.split()[0]: line.split(None, 4)[1:] for line in lines}


def test_one_choice_of_one_network():
    results = [*rows_of("nci", near=90.0), *rows_of("msp", near=80.0, hyperparameters={}, chosen_by="fixed")]
    found = choices(results)
    assert list(found) == ["nci", "msp"]
    assert found["nci"] == [
        *("0.50", "1.00", "0.25"),
        "alpha=0.01 (search of 4 values of alpha: best AUROC of id/val against ood/val, 91.00)",
    ]
    assert found["msp"][-1] == "none"


def test_seeds_that_agree_share_one_choice():
    results = [result for seed in SEEDS for result in rows_of("nci", seed=seed)]
    text = choices(results)["nci"][-1]
    assert text.startswith("alpha=0.01 (search of 4 values")
    assert text.endswith("91.00)")


def test_how_a_value_was_chosen_is_said_of_the_first_seed_where_the_others_differ():
    how = "search of 4 values of alpha: best AUROC of id/val against ood/val, {}".format
    results = [result for i, seed in enumerate(SEEDS) for result in rows_of("nci", seed=seed, chosen_by=how(91 + i))]
    assert choices(results)["nci"][-1].endswith("91 for s0)")


def test_seeds_that_differ_are_named():
    alphas = {"s0": 0.01, "s1": 0.1, "s2": 0.01}
    results = [r for seed in SEEDS for r in rows_of("nci", seed=seed, hyperparameters={"alpha": alphas[seed], "K": 5})]
    assert choices(results)["nci"][-1].startswith("s0 s2: alpha=0.01, K=5; s1: alpha=0.1, K=5 (search")


def test_a_choice_that_differs_by_network_is_not_shown_as_that_of_all():
    """NECO chooses its dimension while it fits: equal hyper-parameters, another dimension for each network."""
    results = [
        result
        for seed, dim in (("s0", 5), ("s1", 4))
        for result in rows_of(
            "neco", seed=seed, hyperparameters={"dim": 0.9}, chosen_by=f"d = {dim} explains 91.0 % of the variance"
        )
    ]
    text = choices(results)["neco"][-1]
    assert "for s0" in text or "d = 4" in text, text


def test_seconds_are_means_over_networks():
    results = [
        result
        for i, seed in enumerate(SEEDS)
        for result in rows_of("nci", seed=seed, seconds={"fit": float(i), "search": 2.0 * i, "score": 0.5})
    ]
    assert choices(results)["nci"][:3] == ["1.00", "2.00", "0.50"]


def test_columns_of_the_choices_are_aligned():
    results = [*rows_of("nci"), *rows_of("pytorch_ood:maximum", hyperparameters={}), *rows_of("a")]
    header, *lines = choices_table(results).splitlines()
    column = header.index("hyper-parameters")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
