"""The HTML page of ``nci-ood report``, of hand-made rows and of a tiny diagnosed run."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from command import command, diagnose
from PIL import Image
from result_rows import SEEDS, rows_of
from tiny import Tiny, draw_nothing, tree

from nci_plugin.evaluation.results import METRICS, file_name, read_results
from nci_plugin.report.diagnosis_figures import FIGURES
from nci_plugin.report.names import display_name
from nci_plugin.report.page import templates

pytestmark = pytest.mark.usefixtures("one_thread")

BOLD = '<b>"bold" & co'
VOID = ("img", "input", "meta")
"""Elements without content and end tag."""

LOADING = {"src", "href", "srcset", "action", "data", "poster", "background"}


class Page(HTMLParser):
    """A page's tree, checked while it is read: every element is closed, in order, and loads nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.identities: set[str] = set()
        self.links: set[str] = set()
        self.tables: list[list[list[str]]] = []
        self.images: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert self.links <= self.identities

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in LOADING:
                assert value.startswith("#") or (tag == "img" and value.startswith("data:image/png;base64,"))
        attributes = dict(attrs)
        self.identities |= {attributes["id"]} if "id" in attributes else set()
        self.links |= {attributes["href"][1:]} if tag == "a" else set()
        if tag == "img":
            self.images.append(attributes["alt"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def with_header(self, *names):
        return [rows for rows in self.tables if rows[0][: len(names)] == list(names)]


def report(results: Path, *flags: str) -> Page:
    code, out, err = command(["report", str(results), *flags])
    assert (code, err) == (0, "")
    assert f"written to {results / 'report.html'}" in out
    return Page((results / "report.html").read_text(encoding="utf-8"))


def write_rows(results: Path, rows) -> None:
    results.mkdir(parents=True, exist_ok=True)
    (results / "results.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def hand_made(tmp_path):
    """Three seeds, two settings, one detector whose name is HTML, one that lacks a seed; scores of one."""
    results = tmp_path / "<i>run"
    rows = [
        row
        for setting in ("ood", "fsood")
        for number, seed in enumerate(SEEDS)
        for row in [
            *rows_of("nci", 90 + number, 92 + number, seed=seed, setting=setting, n_id=20, n_ood=20),
            *rows_of(BOLD, 80 + number, 82 + number, seed=seed, setting=setting, provenance={"device": "<u>"}),
            *(rows_of("lacking", 70, 72, seed=seed, setting=setting) if number else []),
        ]
    ]
    write_rows(results, rows)
    generator = np.random.default_rng(0)
    for seed in SEEDS:
        scores = {
            f"{group}/{name}": generator.normal(size=20)
            for group, name in (("id", "test"), ("near", "cifar100"), ("near", "tin"), ("far", "mnist"))
        }
        (results / seed / "scores").mkdir(parents=True)
        np.savez(results / seed / "scores" / f"{file_name('nci')}.npz", **scores)
    return results


# -------------------------------------------------------------------- without a diagnosis


def test_page_holds_every_row_and_mean(hand_made):
    found = report(hand_made)
    rows = found.with_header("detector", "setting")
    shown = {tuple(row[:5]): [*row[5:10], *row[11:]] for row in rows[0][1:]}
    results = read_results(hand_made / "results.jsonl")
    assert len(shown) == len(results) == len(rows[0]) - 1
    for row in results:
        numbers = [f"{getattr(row, metric):.2f}" for metric in METRICS]
        key = (row.detector, row.setting, row.group, row.dataset, row.seed)
        assert shown[key] == [*numbers, str(row.n_id), str(row.n_ood)]
    auroc = found.with_header("detector", "near")[0]
    assert auroc == [
        ["detector", "near", "far = mnist", "cifar100", "tin"],
        ["NCI (nci)", "91.00±0.82", "93.00±0.82", "91.00±0.82", "92.00±0.82"],
        [BOLD, "81.00±0.82", "83.00±0.82", "81.00±0.82", "82.00±0.82"],
    ]
    assert len(found.with_header("detector", "near")) == 2 * (len(METRICS) - 1)


def test_page_says_who_is_left_out_how_rows_were_made_and_chosen(hand_made):
    found = report(hand_made)
    assert "Not scored for every seed, so in no mean: lacking." in found.texts
    assert found.with_header("field")[0] == [
        ["field", *SEEDS],
        ["weights", "0123", "0123", "0123"],
        ["data", "4567", "4567", "4567"],
        ["device", "<u>", "<u>", "<u>"],
    ]
    choices = found.with_header("detector", "fit s")[0]
    assert [row[0] for row in choices] == ["detector", "nci", BOLD, "lacking"]
    assert "alpha=0.01 (search of 4 values" in choices[1][-1]


def test_names_are_escaped(hand_made):
    found = report(hand_made)
    text = (hand_made / "report.html").read_text(encoding="utf-8")
    assert not {"b", "i", "u"} & set(found.tags)
    assert "&lt;b&gt;&quot;bold&quot; &amp; co" in text
    assert any("<i>run" in each for each in found.texts)


def test_templates_escape_texts_and_attributes_but_no_elements():
    elements = templates().get_template("elements.html").module
    drawn = elements.table('a"b', [["a", "b"], ["1", "<script>\x1b"]])
    assert "<td>&lt;script&gt;\\x1b</td>" in drawn
    assert 'aria-label="a&quot;b"' in drawn
    folded = elements.folded("<&>", open=True, caller=lambda: drawn)
    assert folded.startswith("<details open><summary>&lt;&amp;&gt;</summary>")
    assert drawn in folded


def test_scores_that_are_stored_are_drawn_and_others_not(hand_made):
    found = report(hand_made)
    assert [name for name in found.images if "ROC curves" in name] == ["NCI: scores and ROC curves, cifar10"]
    assert "Neural collapse" not in found.texts


def test_figures_are_written_on_request(hand_made):
    report(hand_made)
    assert not (hand_made / "detectors").exists()
    report(hand_made, "--figures")
    assert sorted(path.name for path in (hand_made / "detectors").iterdir()) == ["nci.png", "nci.svg"]


def test_same_results_give_the_same_page_and_nothing_else_changes(hand_made):
    before = tree(hand_made)
    report(hand_made)
    first = tree(hand_made)
    report(hand_made)
    assert tree(hand_made) == first
    assert {name: content for name, content in first.items() if name != "report.html"} == before


def test_page_loads_and_runs_nothing_of_others(hand_made):
    report(hand_made)
    text = (hand_made / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(|<link|<iframe", text)
    assert text.count("<script>") == 1
    assert "default-src 'none'" in html.unescape(text)
    assert 'name="viewport"' in text


# -------------------------------------------------------------------- with one


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    tiny = Tiny(tmp_path_factory.mktemp("tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
        patch.setattr("nci_plugin.report.diagnosis_figures.draw", lambda results: [])
        assert command(diagnose(tiny, "--layers"))[0] == 0
        return tiny.output, report(tiny.output)


def test_page_holds_the_diagnosis(diagnosed):
    results, found = diagnosed
    explanation = json.loads((results / "diagnosis" / "explanation.json").read_text(encoding="utf-8"))
    assert set(explanation["sentences"]) <= set(found.texts)
    record = json.loads((results / "diagnosis" / "network.json").read_text(encoding="utf-8"))
    metrics = {row[0].strip(): row[2] for row in found.with_header("metric")[0]}
    assert metrics["NC1 Tr(Sigma_W) / Tr(Sigma_B)"] == f"{record['collapse']['nc1_quotient']:.4g}"
    assert {row[0] for row in found.with_header("split", "n")[0][1:]} == set(record["splits"])
    assert [row[0] for row in found.with_header("stage")[0][1:]] == ["conv", "penultimate"]


def test_page_holds_the_figures_of_the_diagnosis_and_of_every_detector(diagnosed):
    results, found = diagnosed
    scored = {path.stem for path in (results / "scores").glob("*.npz")} - {"predictions"}
    assert scored == {row.detector for row in read_results(results / "results.jsonl")}
    assert {name.split(":")[0] for name in found.images if "scores and ROC" in name} == set(map(display_name, scored))
    of_network = [name for name in found.images if "tiny, one network, K = 3" in name]
    assert len(of_network) == len(FIGURES) - 1  # classes of one size have no figure of their sizes


def test_every_image_of_the_page_is_whole(diagnosed):
    text = (diagnosed[0] / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="data:image/png;base64,([^"]*)"', text)
    assert len(sources) > len(FIGURES)
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source, validate=True))) as image:
            image.load()


def test_damaged_diagnosis_is_refused_and_the_page_stays(diagnosed):
    results, _ = diagnosed
    before = (results / "report.html").read_bytes()
    record = results / "diagnosis" / "network.json"
    kept = record.read_bytes()
    try:
        record.write_text("{")
        code, _, err = command(["report", str(results)])
    finally:
        record.write_bytes(kept)
    assert code == 2
    assert "run nci-ood diagnose again" in err
    assert (results / "report.html").read_bytes() == before


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize("content", [None, "", "{}\n"])
def test_directory_without_results_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    before = tree(tmp_path)
    code, out, err = command(["report", str(tmp_path)])
    assert (code, out) == (2, "")
    assert err.startswith("nci-ood: error: results ")
    assert err.count("\n") == 1
    assert tree(tmp_path) == before


def test_two_benchmarks_are_refused(tmp_path):
    write_rows(tmp_path, [*rows_of("nci"), *rows_of("nci", benchmark="other")])
    code, _, err = command(["report", str(tmp_path)])
    assert code == 2
    assert "must be of one benchmark, got cifar10, other" in err


def test_output_that_is_a_directory_is_refused(hand_made):
    code, _, err = command(["report", str(hand_made), "--output", str(hand_made)])
    assert code == 2
    assert "--output: must be a file" in err


def test_damaged_scores_are_refused(hand_made):
    (hand_made / "s1" / "scores" / "nci.npz").write_bytes(b"no npz")
    code, _, err = command(["report", str(hand_made)])
    assert code == 2
    assert "nci.npz" in err
    assert "evaluate again" in err
    assert not (hand_made / "report.html").exists()


def test_scores_that_lack_a_set_of_the_rows_are_refused(hand_made):
    """The others were drawn, as if that set were not there."""
    path = hand_made / "s1" / "scores" / "nci.npz"
    with np.load(path) as scores:
        np.savez(path, **{split: values for split, values in scores.items() if split != "near/tin"})
    code, _, err = command(["report", str(hand_made)])
    assert (code, err.count("\n")) == (2, 1)
    assert "'nci' has 0 scores of 'near/tin' and a row about 20; evaluate again" in err
