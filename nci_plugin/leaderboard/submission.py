"""What a submission changes in a checkout of the leaderboard, and the text of an issue that asks for it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from nci_plugin.checks import PluginError
from nci_plugin.evaluation.results import file_name, is_over_seeds, to_csv
from nci_plugin.evaluation.run import Run
from nci_plugin.files import write_atomically
from nci_plugin.leaderboard.board import Board, Row, Table, cells_of
from nci_plugin.leaderboard.rows import Entry


def plan(found: Sequence[Entry], links: Mapping[str, str], board: Board) -> list[tuple[Table, Table]]:
    """The files that change, before and after: rows added or updated, and new aliases.

    Papers come first: an alias without a row does no harm, a row without its alias stops the board's converter.
    Raises PluginError if a row is on the board twice, or there under another spelling.
    """
    papers = board.papers()
    after = papers
    for alias, link in links.items():
        after = after.appended([alias, link])
    changes = [(papers, after)]
    for name in dict.fromkeys(entry.board for entry in found):
        table = board.table(name)
        after = table
        for entry in found:
            if entry.board == name:
                after = _with_row(after, entry.row)
        changes.append((table, after))
    return [(before, after) for before, after in changes if before.text != after.text]


def _with_row(table: Table, row: Row) -> Table:
    same_file = {
        number: there
        for number, cells in table.cells().items()
        if (there := Row(*cells)).file_name.lower() == row.file_name.lower()
    }
    if not same_file:
        return table.appended(cells_of(row))
    (number, there), *others = same_file.items()
    if others or there.key != row.key:
        lines = ", ".join(str(each + 1) for each in same_file)
        raise PluginError(
            f"leaderboard '{table.path}': {row.file_name.removesuffix('.json')} is there already, in line {lines};"
            f" {'leave one of them' if others else 'give yours the same names, or others'}"
        )
    return table if there == row else table.replaced(number, cells_of(row))


def diff(before: Table, after: Table, root: Path) -> str:
    """A unified diff that says where the last line has no end, as git prints it."""
    name = before.path.relative_to(root).as_posix()
    lines = difflib.unified_diff(before.lines, after.lines, f"a/{name}", f"b/{name}", n=1)
    shown = []
    for line in lines:
        ended = line.endswith("\n")
        shown.append(line.rstrip("\r\n") + ("" if ended else "\n\\ No newline at end of file"))
    return "\n".join(shown)


def write(changes: Sequence[tuple[Table, Table]]) -> None:
    """Write the changed files, each whole or not at all."""
    for _, after in changes:
        write_atomically(after.path, after.text)


def write_issue(run: Run, found: Sequence[Entry], link: str, notes: Sequence[str], directory: Path) -> list[Path]:
    """Write what the leaderboard's issue template asks for one detector, with its CSV files beside it."""
    detector, row = found[0].detector, found[0].row
    over_seeds = is_over_seeds(run.results)
    base = directory / file_name(detector)
    attachments = [base.with_name(f"{base.name}_{entry.board}.csv") for entry in found]
    for entry, path in zip(found, attachments):
        write_atomically(path, to_csv(run.results, detector, entry.setting, over_seeds))
    lines = [f"# [leaderboard] {row.training}, {row.postprocessor}, {run.benchmark}", ""]
    lines += [f"- **`Training`**: {row.training}", f"- **`Postprocessor`**: {row.postprocessor}"]
    for field, value in (("Near-OOD AUROC", "near"), ("Far-OOD AUROC", "far"), ("ID Accuracy", "accuracy")):
        lines.append(f"- **`{field}`**: " + "; ".join(f"{getattr(e.row, value)} ({e.board})" for e in found))
    lines += [f"- **`Outlier Data`**: {row.outlier_data}", f"- **`Model Arch.`**: {row.arch}"]
    lines += [f"- **`Additional Description`**: {row.description}", f"- **Link**: {link}", ""]
    lines += [f"Attached: {', '.join(path.name for path in attachments)}."]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    text = base.with_name(f"{base.name}.md")
    write_atomically(text, "\n".join(lines) + "\n")
    return [text, *attachments]
