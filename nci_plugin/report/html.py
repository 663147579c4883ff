"""Elements of an HTML page: every text is escaped, unless it is an element itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from nci_plugin.checks import printable


class Html(str):
    """Text that is HTML already; made by `element` alone."""


VOID = ("img", "meta")
"""Elements without content and end tag."""


def element(name: str, /, *content: str, **attributes: str | bool) -> Html:
    """``<name attributes>content</name>``; ``class_`` is the attribute ``class``, ``data_x`` is ``data-x``.

    An attribute that is True stands alone, one that is False is left out.
    """
    pairs = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not False}
    texts = [key if value is True else f'{key}="{html.escape(printable(str(value)))}"' for key, value in pairs.items()]
    start = f"<{' '.join([name, *texts])}>"
    return Html(start if name in VOID else f"{start}{join(content)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Elements and texts one after the other; what a text has that cannot be printed is shown as escapes."""
    return Html("".join(part if isinstance(part, Html) else html.escape(printable(part)) for part in parts))


def table(caption: str, rows: Sequence[Sequence[str]], notes: Sequence[str] = (), sortable: bool = False) -> Html:
    """A table that scrolls sideways where it is too wide; the first of ``rows`` is the header."""
    header, *body = rows
    cells = [element("button", name, type="button") if sortable else name for name in header]
    head = element("tr", *(element("th", cell, scope="col") for cell in cells))
    lines = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in body
    ]
    drawn = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *lines), data_sortable=sortable
    )
    scrolled = element("div", drawn, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return join([scrolled, *(element("p", note, class_="note") for note in notes)])


def image(data: bytes, alternative: str) -> Html:
    """A PNG inside the page."""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return element("figure", element("img", src=source, alt=alternative), tabindex="0")


def folded(summary: str, *content: str, unfolded: bool = False) -> Html:
    """A part that opens at a click."""
    return element("details", element("summary", summary), *content, open=unfolded)


def document(title: str, *body: str) -> Html:
    """A whole page, which may load nothing: neither from elsewhere nor from files beside it."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    page = element("html", head, element("body", *body, element("script", Html(SCRIPT))), lang="en")
    return Html(f"<!DOCTYPE html>\n{page}\n")


STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 16px/1.45 system-ui, sans-serif; color: #1a1a1a; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 1rem; font-weight: 600; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid #bbb; }
nav a { display: inline-block; padding: 0.3rem 0.8rem 0.3rem 0; color: #0058a3; }
.row { display: flex; flex-wrap: wrap; column-gap: 3rem; }
.scroll { max-width: 100%; }
.scroll, figure { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.3rem; font-weight: 600; }
th, td { padding: 0.25rem 0.6rem; text-align: right; vertical-align: top; white-space: nowrap; }
th { background: #f2f2f2; font-weight: 600; }
tr > :first-child { text-align: left; position: sticky; left: 0; min-width: 7rem; }
tbody tr + tr { border-top: 1px solid #e4e4e4; }
.wrap td, .wrap th { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 3.5rem; }
th button { all: unset; cursor: pointer; padding: 0.3rem 0; }
th button:focus-visible { outline: 2px solid #0058a3; }
th button::after { content: " \\2195"; color: #767676; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
.note { font-size: 0.85rem; color: #555; margin: 0.3rem 0; overflow-wrap: anywhere; }
.wrap tr > :first-child { overflow-wrap: break-word; }
summary { cursor: pointer; padding: 0.5rem 0; font-weight: 600; }
img { display: block; max-width: 100%; height: auto; }
@media screen and (max-width: 40rem) {
  body { padding: 0.6rem; }
  img { max-width: none; width: 40rem; }
  caption { max-width: 90vw; }
  tr > :first-child { max-width: 40vw; white-space: normal; overflow-wrap: break-word; }
}
@media print {
  @page { size: A4; margin: 12mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, th button::after { display: none; }
  .scroll, figure { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: 0.1rem 0.35rem; }
  thead { display: table-header-group; }
  tr, figure { break-inside: avoid; }
  h2, summary, caption, thead { break-after: avoid; }
  tbody tr:first-child { break-before: avoid; }
  img { max-height: 120mm; }
}
"""

SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.firstChild.addEventListener("click", () => {
    const key = row => row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    const known = rows.filter(row => key(row) !== "-");
    const numeric = known.every(row => !Number.isNaN(parseFloat(key(row))));
    const before = header.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numeric;
    const ascending = (a, b) => numeric ? parseFloat(key(a)) - parseFloat(key(b)) : key(a).localeCompare(key(b));
    known.sort((a, b) => descending ? ascending(b, a) : ascending(a, b));
    for (const each of headers) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.tBodies[0].append(...known, ...rows.filter(row => key(row) === "-"));
  }));
}
const folded = [];
addEventListener("beforeprint", () => {
  folded.push(...document.querySelectorAll("details:not([open])"));
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => { for (const part of folded.splice(0)) part.open = false; });
"""
"""Columns sort at a click, values that are missing last; a print is whole, whatever is folded on the screen."""
