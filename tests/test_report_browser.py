"""What the page does in a browser: sorting, printing, and no word on the console. Skipped where Chromium is missing."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command import command, diagnose
from markupsafe import Markup
from tiny import Tiny, draw_nothing

from nci_plugin.report.page import templates

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, Debian's package 'chromium'"),
]

AXE = next(
    (
        path
        for folder in (os.environ.get("AXE_CORE"), Path(__file__).parents[1] / "node_modules" / "axe-core")
        if folder and (path := Path(folder) / "axe.min.js").is_file()
    ),
    None,
)

ROWS = [
    ["detector", "AUROC", "text", "mixed"],
    ["one", "9.50±0.10", "b", "1e-05"],
    ["two", "100.00±0.00", "-", "-2.5"],
    ["three", "-", "a", "12"],
    ["four", "88.25±1.50", "C", "3.5"],
]
PHONE = "--window-size=500,900"
ELEMENTS = templates().get_template("elements.html").module


def document(body: str) -> str:
    return str(ELEMENTS.document("t", caller=lambda: body))  # of Markup, `replace` would escape what it puts in


def chromium(page: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page without a window; what was asked for, and the lines on its console."""
    profile = f"--user-data-dir={page.parent / 'profile'}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", profile, *flags]
    assert CHROMIUM is not None
    done = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def answer(folder: Path, text: str, script: str, *flags: str) -> Any:
    """What the expression ``script`` gives once the page has been read, as JSON; nothing may be on its console."""
    asking = f'<script>document.body.append("answer:" + JSON.stringify({script}) + ":end")</script>'
    page = folder / "page.html"
    page.write_text(text.replace("</body>", f"{asking}</body>"), encoding="utf-8")
    dom, console = chromium(page, "--dump-dom", *flags)
    assert console == []
    found = re.search("answer:(.*?):end(?!.*:end)", dom.split("</script>")[-1], re.DOTALL)
    assert found is not None
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def answer_in_time(page: Path) -> Any:
    """What a page that asks by itself answers once its events are over; nothing may be on its console."""
    dom, console = chromium(page, "--dump-dom", "--virtual-time-budget=60000")
    assert console == []
    found = re.search("answer:(.*?):end", dom.rpartition("</script>")[2], re.DOTALL)
    assert found is not None
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a diagnosed run."""
    tiny = Tiny(tmp_path_factory.mktemp("tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
        patch.setattr("nci_plugin.report.diagnosis_figures.draw", lambda results: [])
        assert command(diagnose(tiny))[0] == 0
    assert command(["report", str(tiny.output)])[0] == 0
    return (tiny.output / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("column", "clicks", "order", "direction"),
    [
        (1, 1, "two four one three", "descending"),  # numbers: the largest first, what is missing last
        (1, 2, "one four two three", "ascending"),
        (1, 3, "two four one three", "descending"),
        (2, 1, "three one four two", "ascending"),  # texts: from A to Z, whatever their case
        (2, 2, "four one three two", "descending"),
        (3, 2, "two one four three", "ascending"),  # signs and exponents
        (0, 1, "four one three two", "ascending"),
    ],
)
def test_columns_sort_at_a_click(tmp_path, column, clicks, order, direction):
    page = document(ELEMENTS.table("caption", ROWS, sortable=True))
    found = answer(
        tmp_path,
        page,
        f"""(() => {{
          const button = document.querySelectorAll("th button")[{column}];
          for (let click = 0; click < {clicks}; click++) button.click();
          return {{
            rows: [...document.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.textContent)),
            sorts: [...document.querySelectorAll("thead th")].map(cell => cell.getAttribute("aria-sort")),
          }};
        }})()""",
    )
    by_name = {row[0]: row for row in ROWS[1:]}
    assert found["rows"] == [by_name[name] for name in order.split()]  # whole rows move
    assert found["sorts"] == [direction if place == column else None for place in range(4)]


def test_a_word_filters_detectors_in_tables_and_folded_parts(tmp_path):
    others = ["split", *ROWS[0][1:]], *ROWS[1:]
    folded = [ELEMENTS.folded(name, filtered=name, caller=lambda: "text") for name in ("one", "four")]
    tables = [ELEMENTS.table("caption", rows, sortable=True) for rows in (ROWS, others)]
    found = answer(
        tmp_path,
        document(Markup().join([ELEMENTS.filter("label"), *tables, *folded])),
        """(() => {
          const input = document.querySelector("input"), states = [];
          for (const word of ["O", " four ", ""]) {
            input.value = word;
            input.dispatchEvent(new Event("input"));
            states.push([...document.querySelectorAll("tbody tr, details")].map(each => each.offsetHeight > 0));
          }
          return states;
        })()""",
    )
    tables_of = {"O": [1, 1, 0, 1], "four": [0, 0, 0, 1], "": [1, 1, 1, 1]}
    parts = {"O": [1, 1], "four": [0, 1], "": [1, 1]}
    assert found == [list(map(bool, [*tables_of[word], 1, 1, 1, 1, *parts[word]])) for word in tables_of]


@pytest.mark.skipif(AXE is None, reason="needs axe-core: npm install axe-core here, or its folder in AXE_CORE")
def test_axe_finds_no_serious_violation(tmp_path, report):
    assert AXE is not None
    page = tmp_path / "page.html"
    asking = """
      for (const part of document.querySelectorAll("details")) part.open = true;
      axe.run(document).then(found => document.body.append("answer:" + JSON.stringify({
        passes: found.passes.length,
        serious: found.violations.filter(each => ["serious", "critical"].includes(each.impact)).map(
          each => [each.id, each.nodes.slice(0, 3).map(node => node.html)]),
      }) + ":end"));"""
    scripts = f"<script>{AXE.read_text(encoding='utf-8')}</script><script>{asking}</script>"
    page.write_text(report.replace("</body>", f"{scripts}</body>"), encoding="utf-8")
    answered = answer_in_time(page)
    assert answered["passes"] > 10
    assert answered["serious"] == []


def test_every_sortable_table_of_a_report_sorts(tmp_path, report):
    found = answer(
        tmp_path,
        report,
        """[...document.querySelectorAll("table[data-sortable]")].map(table => {
          const texts = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
          const before = texts();
          table.querySelector("th button").click();
          return [before, texts()];
        })""",
    )
    assert len(found) > 4  # AUROC, FPR, AUPR twice, the classes, all rows
    for before, after in found:
        numbers = all(text.lstrip("-").isdigit() for text in before)
        assert after == sorted(before, key=int if numbers else str, reverse=numbers)


def test_report_fits_a_phone_and_shows_every_image(tmp_path, report):
    found = answer(
        tmp_path,
        report,
        """{
          width: [document.documentElement.scrollWidth, innerWidth],
          images: [...document.images].map(image => image.complete && image.naturalWidth > 300),
        }""",
        PHONE,
    )
    assert found["width"][0] <= found["width"][1]
    assert found["images"]
    assert all(found["images"])


def test_numbers_of_the_first_two_columns_are_whole_at_390_pixels(tmp_path, report):
    page = tmp_path / "page.html"
    asking = """
      const frame = document.querySelector("iframe");
      frame.addEventListener("load", () => document.body.append("answer:" + JSON.stringify({
        width: frame.contentWindow.innerWidth,
        page: frame.contentDocument.documentElement.scrollWidth,
        ends: [...frame.contentDocument.querySelectorAll("#benchmark table")].slice(0, 2).map(
          table => Math.max(...[...table.rows].map(row => row.cells[2].getBoundingClientRect().right))),
      }) + ":end"));"""
    frame = f'<iframe style="width:390px;height:900px;border:0" srcdoc="{html.escape(report)}"></iframe>'
    page.write_text(f"<!DOCTYPE html><body>{frame}<script>{asking}</script></body>", encoding="utf-8")
    answered = answer_in_time(page)
    assert answered["width"] == 390
    assert answered["page"] <= 390
    assert len(answered["ends"]) == 2
    assert max(answered["ends"]) <= 390


def test_a_print_holds_what_is_folded_on_the_screen(tmp_path):
    rows = [["number"], *([str(number)] for number in range(300))]
    unfolded = ELEMENTS.folded("open", open=True, caller=lambda: ELEMENTS.table("short", rows[:3]))
    page = document(unfolded + ELEMENTS.folded("rows", caller=lambda: ELEMENTS.table("long", rows)))
    states = answer(
        tmp_path,
        page,
        """["", "beforeprint", "afterprint", "beforeprint", "afterprint"].map(name => {
          if (name) dispatchEvent(new Event(name));
          return [...document.querySelectorAll("details")].map(part => part.open);
        })""",
    )
    assert states == [[True, False], [True, True], [True, False], [True, True], [True, False]]
    target, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    target.write_text(page, encoding="utf-8")
    chromium(target, f"--print-to-pdf={printed}")
    assert len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) > 3  # 300 rows
