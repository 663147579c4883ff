"""The beginning of the page: sentences by rule, the chart, names, and how large the page becomes."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from command import command
from matplotlib.text import Text
from PIL import Image
from result_rows import SEEDS, rows_of

from nci_plugin.detectors.registry import detector_class, names
from nci_plugin.diagnosis.explanation import Explanation, PropertyRow
from nci_plugin.evaluation.identity import FIELDS
from nci_plugin.evaluation.results import complete, file_name
from nci_plugin.report.names import display_name
from nci_plugin.report.page import _image
from nci_plugin.report.standing_figure import standing_figure
from nci_plugin.report.summary import not_comparable, what_collapse_says, what_was_tested, who_leads

FIXED = {"chosen_by": "fixed", "provenance": dict.fromkeys(FIELDS, "0")}


def test_what_was_tested_is_in_one_sentence() -> None:
    rows = [each for seed in SEEDS for each in rows_of("nci", seed=seed, n_id=9000)]
    assert what_was_tested(rows) == (
        "1 detector tested with 3 networks trained on cifar10 (s0, s1, s2): can they tell 9000 test images of known"
        " classes, of which 95.1 % are classified right, from near-OOD images (cifar100, 7793, tin, 7793) and from"
        " far-OOD images (mnist, 7793)?"
    )


def test_leaders_are_those_to_whom_none_is_better() -> None:
    rows = [*rows_of("nci", 90, 80), *rows_of("mds_pp", 92, 70), *rows_of("ebo", 60, 95), *rows_of("msp", 50, 50)]
    ranks = {
        "near": {"mds_pp": "1-2", "nci": "1-2", "ebo": "3-4", "msp": "3-4"},
        "far": {"ebo": "1", "nci": "2", "mds_pp": "3", "msp": "4"},
    }
    assert who_leads(rows, ranks) == (
        "near-OOD: 2 of 4 detectors lead, for none is shown to be better (AUROC in percent): MDS++ 92.0, NCI 90.0;"
        " far-OOD: Energy leads alone (AUROC 95.0 %)."
    )


def test_where_most_tie_those_that_are_worse_are_named() -> None:
    rows = [*rows_of("nci", 90), *rows_of("mds_pp", 92), *rows_of("ebo", 60)]
    assert who_leads(rows, {"near": {"mds_pp": "1-2", "nci": "1-2", "ebo": "3"}}).startswith(
        "near-OOD: which of 2 detectors leads is not shown; the highest mean AUROC has MDS++ (92.0 %); of 3 only"
        " Energy 60.0 is shown to be worse than another; far-OOD: NCI has the highest mean"
    )


def test_where_all_tie_nobody_is_said_to_lead() -> None:
    rows = [*rows_of("nci", 90, 80), *rows_of("ebo", 60, 95)]
    ranks = {group: {"nci": "1-2", "ebo": "1-2"} for group in ("near", "far")}
    said = who_leads(rows, ranks)
    assert "lead" not in said
    assert "none of the 2 detectors is shown to be better than another" in said
    assert "mean AUROC has NCI (90.0 %), the lowest Energy (60.0 %)" in said


def test_without_ranks_or_rows_that_is_said() -> None:
    rows = [*rows_of("nci", 90, 80), *rows_of("ebo", 60, 95)]
    assert who_leads(rows, {}) == (
        "near-OOD: NCI has the highest mean AUROC (90.0 %); far-OOD: Energy has the highest mean AUROC (95.0 %);"
        " which of it is chance is not known."
    )
    assert who_leads(rows_of("nci"), {}).startswith("near-OOD: NCI alone was tested (90.0 %)")
    assert "none can be said to lead" in who_leads([], {})


def test_the_collapse_is_its_means_beside_their_values_at_collapse() -> None:
    rows = [
        PropertyRow("NC1", "near", "nc1", "quotient", 0.0, [0.1, 0.3], [80.0, 90.0], None),
        PropertyRow("NC4", "near", "nc4", "agreement", 1.0, [None, None], [70.0, 99.0], None),
        PropertyRow("NC5", "near", "nc5", "OrthoDev", 0.0, [0.5, 0.7], [None, 99.0], None),
    ]
    assert what_collapse_says(Explanation(2, rows, [])) == (
        "Mean over 2 networks: NC1 0.2 (at collapse 0); of the collapse scores the highest mean AUROC has NC1 score"
        " near (85.0 %)."
    )
    many_classes = [PropertyRow("NC2", "near", "nc2", "ETF error", None, [0.25], [80.0], None)]
    assert "NC2 0.25 (out of reach at collapse);" in what_collapse_says(Explanation(1, many_classes, []))
    assert what_collapse_says(Explanation(1, [], ["NC1: it is 3."])) == "NC1: it is 3."
    assert "not measured" in what_collapse_says(None)


def test_what_is_not_comparable_is_named() -> None:
    alike = [*rows_of("msp", **FIXED), *rows_of("ebo", **FIXED)]
    assert not_comparable(alike, alike) == "FPR@95 is on OpenOOD's side, not on that of most papers."
    origin = {**FIXED["provenance"], "torch": "2.1"}
    rows = [
        *rows_of("msp", **FIXED),
        *rows_of("nci", **{**FIXED, "chosen_by": "best AUROC of id/val against ood/val"}),
        *rows_of("msp", seed="s1", setting="fsood", chosen_by="fixed", provenance={**origin, "torch": "2.2"}),
        *rows_of("ebo", seed="s1", chosen_by="fixed", provenance=origin),
    ]
    said = not_comparable(rows, complete(rows))
    for part in ("1 of 3 detectors had their settings chosen on OOD", "lack a network", "torch (2.1, 2.2)", "full-s"):
        assert part in said
    assert "identity not recorded: code" in not_comparable(rows_of("nci"), rows_of("nci"))


def test_every_detector_of_the_package_has_a_name_for_readers() -> None:
    ours = [name for name in names() if detector_class(name).__module__.startswith("nci_plugin.detectors")]
    assert all(display_name(name) != name for name in ours)
    assert len(set(map(display_name, names()))) == len(names())
    assert display_name("my_own") == "my_own"


def test_the_chart_labels_every_detector_apart() -> None:
    near = {f"method_{place}": 90 + place % 5 * 0.02 for place in range(20)}
    far = {name: value for name, value in zip(near, np.linspace(95, 96, 20))}
    figure = standing_figure(near, far, {("near", "method_0"): (80, 99)}, {"method_0"})
    assert figure is not None
    axis = figure.axes[0]
    figure.draw_without_rendering()
    assert {text.get_text() for text in axis.texts} == set(near)
    boxes = [Text.get_window_extent(text) for text in axis.texts]
    dots = [axis.transData.transform((near[name], far[name])) for name in near]
    for place, box in enumerate(boxes):
        assert box.count_overlaps([axis.get_window_extent()]) == 1
        assert box.count_overlaps(boxes[:place]) == 0
        assert not any(box.contains(*dot) for dot in dots)
    assert standing_figure(near, {}, {}, ()) is None


def test_a_single_leader_keeps_its_colour_on_the_page() -> None:
    """A palette of the most frequent colours had no blue left, by which the chart says who leads."""
    near = {f"method_{place}": 60 + place for place in range(30)}
    figure = standing_figure(near, near, {}, {"method_29"})
    assert figure is not None
    with Image.open(io.BytesIO(base64.b64decode(_image(figure)["source"].partition(",")[2]))) as image:
        colours = np.asarray(image.convert("RGB"), dtype=np.int64)
    assert (np.abs(colours - (0x00, 0x72, 0xB2)).max(axis=2) < 16).sum() > 10


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_forty_detectors_and_three_seeds_are_under_two_megabytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    found = [f"method_{place:02}" for place in range(40)]
    rows = [
        each
        for setting in ("ood", "fsood")
        for place, name in enumerate(found)
        for seed in SEEDS
        for each in rows_of(name, 60 + place, 50 + place, seed=seed, setting=setting, n_id=500, n_ood=500)
    ]
    (tmp_path / "results.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows), encoding="utf-8")
    splits = {"id/test": 1.0, "near/cifar100": 0.5, "near/tin": 0.2, "far/mnist": 0.0}
    for seed in SEEDS:
        (tmp_path / seed / "scores").mkdir(parents=True)
        for name in found:
            scores = {split: generator.normal(mean, 1, 500) for split, mean in splits.items()}
            np.savez(tmp_path / seed / "scores" / f"{file_name(name)}.npz", **scores)
    assert command(["report", str(tmp_path)])[0] == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(re.findall("<img", text)) == 42
    assert len(text.encode()) < 2e6
