"""``nci-ood leaderboard``: rows for OpenOOD's leaderboard, their place on it, and published numbers beside own ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from nci_plugin.adapters.openood.roots import find_roots
from nci_plugin.checks import PluginError, check_known, check_number, pairs
from nci_plugin.cli.groups import BoardRows
from nci_plugin.cli.leaderboard_commands import LeaderboardApply, LeaderboardCompare, LeaderboardRank, LeaderboardRows
from nci_plugin.comparison.compare import standings
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.run import Run
from nci_plugin.leaderboard.board import BOARDS, Board, cells_of, csv_line
from nci_plugin.leaderboard.comparability import notes
from nci_plugin.leaderboard.comparison import differences, published_row
from nci_plugin.leaderboard.names import check_submittable, name_network
from nci_plugin.leaderboard.rank import GROUPS
from nci_plugin.leaderboard.rows import Entry, entries, explain, new_links
from nci_plugin.leaderboard.submission import diff, plan, write, write_issue
from nci_plugin.leaderboard.tables import own_ranks, standing_text
from nci_plugin.report.terminal import aligned, say


@dataclass(frozen=True)
class Rows:
    """The rows that are asked for, the run they are of, and the board they are for."""

    run: Run
    board: Board
    entries: Sequence[Entry]

    @classmethod
    def of(cls, asked: BoardRows) -> Rows:
        """Raises PluginError if there can be none."""
        run, names = Run.read(asked.results), asked.names
        check_submittable(run)
        board = Board.checkout(names.board) if names.board else Board.snapshot()
        selected = run.select(asked.detectors)
        aliases = pairs("--alias", names.alias)
        for name in aliases:
            check_known("detector of --alias", name, selected)
        network = name_network(run, board, names.training, names.arch_name, names.description, names.outlier_data)
        found = entries(run, selected, network, aliases, board)
        if not found:
            raise PluginError(f"results '{run.path}': no detector was scored for every seed; evaluate again")
        return cls(run, board, found)

    def links(self, given: Sequence[str]) -> dict[str, str]:
        return new_links(self.entries, self.board, pairs("--link", given))

    def notes(self, entry: Entry) -> list[str]:
        return notes(self.run, entry, self.board.rows(entry.board))

    def print_notes(self, detectors: Sequence[str] | None) -> None:
        """The notes on all rows, each once with the rows that it is about, and what is no row."""
        about: dict[tuple[str, str], list[str]] = {}
        for entry in self.entries:
            for note in self.notes(entry):
                about.setdefault((entry.board, note), []).append(entry.row.postprocessor)
        for (name, note), rows in about.items():
            say(f"{name} {', '.join(rows)}: {note}")
        _print_left_out(self.run, detectors)


def run_rows(options: LeaderboardRows) -> int:
    rows = Rows.of(options.asked)
    links = rows.links(options.link)
    for name in dict.fromkeys(entry.board for entry in rows.entries):
        print(f"results/{name}.csv")
        for entry in rows.entries:
            if entry.board == name:
                print(csv_line(cells_of(entry.row)))
        print()
    if links:
        print("utils/papers.csv")
        print("\n".join(csv_line(pair) for pair in links.items()) + "\n")
    rows.print_notes(options.asked.detectors)
    if options.explain:
        for entry in rows.entries:
            print(f"\n{entry.board}: {csv_line(cells_of(entry.row))}")
            print("\n".join(f"  {line}" for line in explain(rows.run, entry)))
    if options.issue:
        _write_issues(rows, {**rows.board.links(), **links}, options.output or rows.run.path / "leaderboard")
    return 0


def _write_issues(rows: Rows, links: dict[str, str], directory: Path) -> None:
    for detector in dict.fromkeys(entry.detector for entry in rows.entries):
        of_detector = [entry for entry in rows.entries if entry.detector == detector]
        lines = [f"{entry.board}: {note}" for entry in of_detector for note in rows.notes(entry)]
        address = "; ".join(links[name] for name in of_detector[0].row.aliases)
        written = write_issue(rows.run, of_detector, address, lines, directory)
        print(f"written to {directory}: {', '.join(path.name for path in written)}")


def run_apply(options: LeaderboardApply) -> int:
    rows = Rows.of(options.asked)
    changes = plan(rows.entries, rows.links(options.link), rows.board)
    for before, after in changes:
        print(diff(before, after, options.board))
    if changes:
        print()
    rows.print_notes(options.asked.detectors)
    if not changes:
        print(f"{options.board}: has these rows already, nothing to change")
    elif options.dry_run:
        print(f"{options.board}: nothing was written (--dry-run); {len(changes)} files would change")
    else:
        write(changes)
        names = ", ".join(after.path.relative_to(options.board).as_posix() for _, after in changes)
        print(f"{options.board}: written: {names}")
    return 0


def run_rank(options: LeaderboardRank) -> int:
    check_number("--around", options.around, least=0, whole=True)
    run = Run.read(options.asked.results)
    detectors = run.select(options.asked.detectors)
    known = standings(run.path, detectors, run.settings)
    if run.benchmark not in BOARDS:
        say(
            f"'{run.benchmark}' is no benchmark of OpenOOD's leaderboard ({', '.join(BOARDS)}): its numbers stand only"
            " beside each other"
        )
        for text in own_ranks(run, detectors, known.ranks):
            print(f"\n{text}")
    else:
        rows = Rows.of(options.asked)
        for entry in rows.entries:
            row, board = entry.row, rows.board
            say(f"{entry.board}: {row.training}, {row.postprocessor} on {row.arch}, {row.description}, on {board.name}")
            own = {group: known.intervals.get((entry.setting, group, entry.detector)) for group in GROUPS}
            print(standing_text(row, board.rows(entry.board), options.around, own))
            say("".join(f"{note}\n" for note in rows.notes(entry)))
    if known.note:
        print(known.note)  # with a command, on one line
    _print_left_out(run, options.asked.detectors)
    return 0


def run_compare(options: LeaderboardCompare) -> int:
    check_known("benchmark of the leaderboard", options.benchmark, BOARDS)
    check_number("--tolerance", options.tolerance, least=0)
    results = options.results or _find_results(options.benchmark, options.detector)
    if Run.read(results).benchmark != options.benchmark:
        raise PluginError(f"results '{results}': are not of '{options.benchmark}'; pass others with --results")
    rows = Rows.of(BoardRows(results, (options.detector,), options.names))
    print(f"results: {rows.run.path}")
    if rows.run.unrecorded:
        print(rows.run.unrecorded)
    differs = [_differs(entry, rows, options.tolerance) for entry in rows.entries]
    print(f"\n{'differs by more than' if any(differs) else 'agrees within'} {options.tolerance:g} points")
    return 1 if any(differs) else 0


def _differs(entry: Entry, rows: Rows, tolerance: float) -> bool:
    """Print a row beside the published one; whether they differ by more than the tolerance."""
    try:
        published = published_row(entry, rows.board)
    except PluginError as error:
        if entry.setting == "ood":
            raise
        say(f"\n{error}")
        return False
    say(f"\n{entry.board}: {', '.join(published.key)}, on {rows.board.name}")
    seeds = [result.seed or "network" for result in entry.near]
    cells = [["", *(seeds if len(seeds) > 1 else []), "own", "published", "own - published"]]
    by_field, compared = differences(entry, published)
    for field, each in by_field.items():
        points = "/" if each.points is None else f"{each.points:+.2f}"
        by_seed = [f"{value:.2f}" for value in each.by_seed.values()] if len(seeds) > 1 else []
        cells.append([field, *by_seed, each.own, each.published, points])
    print(aligned(cells))
    if compared is not None:
        say(f"the published row is of one network: {compared}, the nearest seed, is compared with it")
    for note in rows.notes(entry):
        say(note)
    return any(each.points is not None and abs(each.points) > tolerance + 0.005 for each in by_field.values())


def _find_results(benchmark: str, detector: str) -> Path:
    """The one directory of results with rows of a benchmark and detector; raises PluginError on none and several.

    Those that cannot be used are named and left out.
    """
    root = find_roots(benchmark).results
    found = []
    for path in sorted(root.glob("*/")):
        if not ResultsDirectory(path).results_file.is_file():
            continue
        try:
            run = Run.read(path)
        except PluginError as error:
            say(f"left out: {error}")
            continue
        if run.benchmark == benchmark and detector in run.detectors:
            found.append(path)
    if not found:
        raise PluginError(
            f"results: '{root}' holds none of '{detector}' on '{benchmark}'; run nci-ood eval {benchmark} --detectors"
            f" {quote(detector)}, or pass --results DIR"
        )
    if len(found) > 1:
        raise PluginError(f"results: {', '.join(map(str, found))} are all of '{benchmark}'; choose one with --results")
    return found[0]


def _print_left_out(run: Run, detectors: Sequence[str] | None) -> None:
    if run.unrecorded:
        print(run.unrecorded)
    if run.incomplete and detectors is None:
        say(f"left out, not scored for every seed: {', '.join(run.incomplete)}")
    has, wanted = {result.setting for result in run.results}, BOARDS.get(run.benchmark, {})
    if "fsood" in has and wanted and "fsood" not in wanted:
        print(f"left out: the full spectrum, of which the leaderboard has no board for {run.benchmark}")
    if "fsood" in wanted and "fsood" not in has:
        print("left out: the full spectrum, of which there are no results")
