"""The CSV files of OpenOOD's leaderboard, read and written so that no byte changes that was not meant to.

``data/`` holds a copy of all of them, as the live home of the leaderboard had them at `SNAPSHOT`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from nci_plugin.checks import PluginError, shown
from nci_plugin.files import read_text

HOME = "https://github.com/zjysteven/OpenOOD"
"""Whose branch ``leaderboard`` is the board; that of OpenOOD's own repository stopped in July 2024."""

SNAPSHOT = "28d3a40 of 2025-07-19"
"""The commit of that branch that the copy is of, and its date."""

COLUMNS = (
    "Training",
    "Postprocessor",
    "Near-OOD_AUROC",
    "Far-OOD_AUROC",
    "ID_Accuracy",
    "Outlier_Data",
    "Arch",
    "Additional_Description",
)
LARGEST_FILE = 2**24
PAPER_COLUMNS = ("Alias", "Link")
BOARDS = {
    "cifar10": {"ood": "cifar10"},
    "cifar100": {"ood": "cifar100"},
    "imagenet200": {"ood": "imagenet200_ood", "fsood": "imagenet200_fsood"},
    "imagenet": {"ood": "imagenet1k_ood", "fsood": "imagenet1k_fsood"},
}
"""Which of the leaderboard's files a benchmark and setting belong to."""


@dataclass(frozen=True)
class Row:
    """One row of a board, as text: ``88.03 ± 0.25`` over several networks, ``76.02`` of one, ``/`` of none."""

    training: str
    postprocessor: str
    near: str
    far: str
    accuracy: str
    outlier_data: str
    arch: str
    description: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the board tells rows apart by."""
        return self.training, self.postprocessor, self.arch, self.description

    @property
    def aliases(self) -> list[str]:
        """The postprocessors that ``papers.csv`` must have a link of."""
        return self.postprocessor.split(" + ")

    @property
    def file_name(self) -> str:
        """The JSON file that the board's own converter writes for this row; two rows with one name lose one."""
        described = [self.training, self.postprocessor, self.arch.replace("/", "-"), self.description]
        return f"{'_'.join(filter(None, described))}.json".replace(" ", "_")

    def same_network(self, other: Row) -> bool:
        """Whether both are of the same architecture and training."""
        return (self.training, self.arch, self.description) == (other.training, other.arch, other.description)


def mean(cell: str) -> float | None:
    """The number that the board ranks by, the first with a decimal point; None where there is none."""
    found = re.search(r"\d+\.\d+", cell)
    return float(found.group()) if found else None


@dataclass(frozen=True)
class Table:
    """A CSV file as its raw lines, line ends included; the first is the header."""

    path: Path
    lines: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, columns: Sequence[str]) -> Table:
        """Raises PluginError unless the file has these columns and a cell for each in every line."""
        text = read_text(path, "leaderboard", LARGEST_FILE, "pass the checkout's directory with --board")
        table = cls(path, tuple(io.StringIO(text, newline="")))
        if not table.lines or _cells(table.lines[0]) != list(columns):
            raise PluginError(f"leaderboard '{path}': must have the columns {','.join(columns)}; restore the file")
        for number, cells in table.cells().items():
            if len(cells) != len(columns):
                raise PluginError(
                    f"leaderboard '{path}' line {number + 1}: must have {len(columns)} cells, got {len(cells)};"
                    " correct it"
                )
        return table

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def cells(self) -> dict[int, list[str]]:
        """The cells of every row, by the index of its line; empty lines are none."""
        return {number: _cells(line) for number, line in enumerate(self.lines) if number and line.strip()}

    def replaced(self, number: int, cells: Sequence[str]) -> Table:
        """The same file with other cells in one line."""
        line = self.lines[number]
        changed = csv_line(cells) + line[len(line.rstrip("\r\n")) :]
        return Table(self.path, (*self.lines[:number], changed, *self.lines[number + 1 :]))

    def appended(self, cells: Sequence[str]) -> Table:
        """The same file with one row more and one line end more, before it where the last line has none."""
        end = "\r\n" if self.lines[0].endswith("\r\n") else "\n"
        *others, last = self.lines
        if last.endswith("\n"):
            return Table(self.path, (*self.lines, csv_line(cells) + end))
        return Table(self.path, (*others, last + end, csv_line(cells)))


def csv_line(cells: Sequence[str]) -> str:
    """One line of a CSV file, without a line end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")]), [])
    except csv.Error as error:  # a cell of over 128 KiB, say
        raise PluginError(f"leaderboard: a line cannot be read ({error}), {shown(line)}; restore the file") from None


@dataclass(frozen=True)
class Board:
    """The rows of every benchmark, and the link of every alias.

    ``name`` is how messages call it.
    """

    results: Path
    papers_file: Path
    name: str

    @classmethod
    def snapshot(cls) -> Board:
        """The copy that ships with this package."""
        data = Path(__file__).parent / "data"
        return cls(data, data / "papers.csv", f"the board of {SNAPSHOT}")

    @classmethod
    def checkout(cls, path: Path) -> Board:
        """The ``leaderboard`` branch of OpenOOD in a directory; raises PluginError if it is not there."""
        board = cls(path / "results", path / "utils" / "papers.csv", f"the board in {path}")
        if not board.results.is_dir() or not board.papers_file.is_file():
            raise PluginError(
                f"--board '{path}': must be a checkout of OpenOOD's leaderboard branch, with results/*.csv and"
                f" utils/papers.csv; git clone --branch leaderboard {HOME}"
            )
        return board

    def table(self, name: str) -> Table:
        return Table.read(self.results / f"{name}.csv", COLUMNS)

    def rows(self, name: str) -> list[Row]:
        """The rows of one board, in its order."""
        return [Row(*cells) for cells in self.table(name).cells().values()]

    def papers(self) -> Table:
        return Table.read(self.papers_file, PAPER_COLUMNS)

    def links(self) -> Mapping[str, str]:
        """The link of every alias."""
        return {alias: link for alias, link in self.papers().cells().values()}

    def architectures(self, benchmark: str) -> list[str]:
        """The spellings of architectures on the boards of one benchmark."""
        rows = [row for name in BOARDS[benchmark].values() for row in self.rows(name)]
        return list(dict.fromkeys(row.arch for row in rows))


def cells_of(row: Row) -> tuple[str, ...]:
    """The cells of a row, in the order of `COLUMNS`."""
    assert len(fields(row)) == len(COLUMNS)
    return astuple(row)
