"""``nci-ood leaderboard``: rows for OpenOOD's leaderboard, their place on it, and published numbers beside own ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nci_plugin.leaderboard.board import Board
    from nci_plugin.leaderboard.rows import Entry
    from nci_plugin.leaderboard.run import Run


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "leaderboard",
        help="turn results into rows of OpenOOD's leaderboard, and compare with it",
        description="Rows for the leaderboard of OpenOOD v1.5, from the results of 'nci-ood eval'.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    rows = actions.add_parser("rows", help="print the rows, and the lines of papers.csv that they need")
    _add_results(rows)
    rows.add_argument("--explain", action="store_true", help="trace every number to the results it came from")
    rows.add_argument(
        "--issue",
        action="store_true",
        help="write the text of OpenOOD's leaderboard issue for each detector, with its CSV files beside it",
    )
    rows.add_argument("--output", type=Path, metavar="DIR", help="where --issue writes to (RESULTS/leaderboard)")
    _add_links(rows)
    rows.set_defaults(run=_run_rows)

    apply = actions.add_parser("apply", help="add the rows to a checkout of the leaderboard, or update them there")
    _add_results(apply, board_required=True)
    apply.add_argument("--dry-run", action="store_true", help="show the diff, change nothing")
    _add_links(apply)
    apply.set_defaults(run=_run_apply)

    rank = actions.add_parser("rank", help="say where the results would stand, and what they cannot be compared with")
    _add_results(rank)
    rank.add_argument("--around", type=int, default=3, metavar="N", help="rows shown above and below (3)")
    rank.set_defaults(run=_run_rank)

    compare = actions.add_parser(
        "compare",
        help="show own numbers beside the published ones",
        description="Own numbers beside the published row, own minus published: the known-answer test of an"
        " installation. Exit code 1 if one differs by more than the tolerance.",
    )
    compare.add_argument("benchmark", metavar="BENCHMARK", help="a benchmark of the leaderboard")
    compare.add_argument("detector", metavar="DETECTOR", help="a detector's name, as in 'nci-ood eval'")
    compare.add_argument(
        "--results", type=Path, metavar="DIR", help="the results (the one directory that has some of this benchmark)"
    )
    compare.add_argument("--tolerance", type=float, default=0.1, metavar="POINTS", help="that counts as equal (0.1)")
    _add_names(compare)
    compare.set_defaults(run=_run_compare)


def _add_results(parser: argparse.ArgumentParser, board_required: bool = False) -> None:
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a directory that 'nci-ood eval' wrote to")
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="detectors to be rows (all)")
    _add_names(parser, board_required)


def _add_names(parser: argparse.ArgumentParser, board_required: bool = False) -> None:
    parser.add_argument(
        "--board",
        type=Path,
        required=board_required,
        metavar="PATH",
        help="a checkout of OpenOOD's leaderboard branch" + ("" if board_required else " (the copy that ships)"),
    )
    names = "by the names of results and checkpoint"
    parser.add_argument("--training", metavar="NAME", help=f"the board's Training ({names})")
    parser.add_argument("--arch-name", metavar="NAME", help="the board's Arch (by the network's factory)")
    parser.add_argument("--description", metavar="TEXT", help=f"the board's Additional_Description ({names})")
    parser.add_argument("--outlier-data", action="store_true", help="outliers were used in training (No)")
    parser.add_argument(
        "--alias", nargs="+", default=[], metavar="DETECTOR=NAME", help="the board's names of detectors (the usual)"
    )


def _add_links(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--link",
        nargs="+",
        default=[],
        metavar="NAME=URL",
        help="papers of names that the board lacks (the detector's)",
    )


def _run_rows(options: argparse.Namespace) -> int:
    from nci_plugin.leaderboard.board import cells_of, csv_line
    from nci_plugin.leaderboard.comparability import notes
    from nci_plugin.leaderboard.rows import explain, new_links
    from nci_plugin.leaderboard.submission import write_issue

    run, board, found = _entries(options)
    links = new_links(found, board, _pairs("--link", options.link))
    for name in dict.fromkeys(entry.board for entry in found):
        print(f"results/{name}.csv")
        for entry in found:
            if entry.board == name:
                print(csv_line(cells_of(entry.row)))
        print()
    if links:
        print("utils/papers.csv")
        print("\n".join(csv_line(pair) for pair in links.items()) + "\n")
    _print_notes(run, board, found, options)
    if options.explain:
        for entry in found:
            print(f"\n{entry.board}: {csv_line(cells_of(entry.row))}")
            print("\n".join(f"  {line}" for line in explain(run, entry)))
    if options.issue:
        directory = options.output or run.path / "leaderboard"
        for detector in dict.fromkeys(entry.detector for entry in found):
            of_detector = [entry for entry in found if entry.detector == detector]
            said = {entry.board: notes(run, entry, board.rows(entry.board)) for entry in of_detector}
            lines = [f"{name}: {note}" for name, of_board in said.items() for note in of_board]
            known = {**board.links(), **links}
            address = "; ".join(known[name] for name in of_detector[0].row.aliases)
            written = write_issue(run, of_detector, address, lines, directory)
            print(f"written to {directory}: {', '.join(path.name for path in written)}")
    return 0


def _run_apply(options: argparse.Namespace) -> int:
    from nci_plugin.leaderboard.rows import new_links
    from nci_plugin.leaderboard.submission import diff, plan, write

    run, board, found = _entries(options)
    changes = plan(found, new_links(found, board, _pairs("--link", options.link)), board)
    for before, after in changes:
        print(diff(before, after, options.board))
    if changes:
        print()
    _print_notes(run, board, found, options)
    if not changes:
        print(f"{options.board}: has these rows already, nothing to change")
    elif options.dry_run:
        print(f"{options.board}: nothing was written (--dry-run); {len(changes)} files would change")
    else:
        write(changes)
        names = ", ".join(after.path.relative_to(options.board).as_posix() for _, after in changes)
        print(f"{options.board}: written: {names}")
    return 0


def _run_rank(options: argparse.Namespace) -> int:
    from nci_plugin.checks import check_number
    from nci_plugin.comparison.compare import standings
    from nci_plugin.leaderboard.board import BOARDS
    from nci_plugin.leaderboard.comparability import notes
    from nci_plugin.leaderboard.rank import GROUPS
    from nci_plugin.leaderboard.run import Run
    from nci_plugin.leaderboard.tables import own_ranks, standing_text

    check_number("--around", options.around, least=0, whole=True)
    run = Run.read(options.results)
    detectors = run.select(options.detectors)
    known = standings(run.path, detectors, list(dict.fromkeys(result.setting for result in run.results)))
    if run.benchmark not in BOARDS:
        print(
            f"'{run.benchmark}' is no benchmark of OpenOOD's leaderboard ({', '.join(BOARDS)}): its numbers stand only"
            " beside each other"
        )
        for text in own_ranks(run, detectors, known.ranks):
            print(f"\n{text}")
    else:
        run, board, found = _entries(options)
        for entry in found:
            row, rows = entry.row, board.rows(entry.board)
            print(
                f"{entry.board}: {row.training}, {row.postprocessor} on {row.arch}, {row.description}, on {board.name}"
            )
            own = {group: known.intervals.get((entry.setting, group, entry.detector)) for group in GROUPS}
            print(standing_text(row, rows, options.around, own))
            print("".join(f"{note}\n" for note in notes(run, entry, rows)))
    if known.note:
        print(known.note)
    _print_left_out(run, options)
    return 0


def _run_compare(options: argparse.Namespace) -> int:
    from nci_plugin.checks import PluginError, check_known, check_number
    from nci_plugin.leaderboard.board import BOARDS
    from nci_plugin.leaderboard.comparability import notes
    from nci_plugin.leaderboard.comparison import differences, published_row
    from nci_plugin.leaderboard.run import Run
    from nci_plugin.report.tables import aligned

    check_known("benchmark of the leaderboard", options.benchmark, BOARDS)
    check_number("--tolerance", options.tolerance, least=0)
    options.detectors = [options.detector]
    options.results = options.results or _find_results(options.benchmark, options.detector)
    if Run.read(options.results).benchmark != options.benchmark:
        raise PluginError(f"results '{options.results}': are not of '{options.benchmark}'; pass others with --results")
    run, board, found = _entries(options)
    print(f"results: {run.path}")
    if run.unrecorded:
        print(run.unrecorded)
    differs = False
    for entry in found:
        try:
            published = published_row(entry, board)
        except PluginError as error:
            if entry.setting == "ood":
                raise
            print(f"\n{error}")
            continue
        print(f"\n{entry.board}: {', '.join(published.key)}, on {board.name}")
        seeds = [result.seed or "network" for result in entry.near]
        cells = [["", *(seeds if len(seeds) > 1 else []), "own", "published", "own - published"]]
        found_differences, compared = differences(entry, published)
        for field, each in found_differences.items():
            points = "/" if each.points is None else f"{each.points:+.2f}"
            by_seed = [f"{value:.2f}" for value in each.by_seed.values()] if len(seeds) > 1 else []
            cells.append([field, *by_seed, each.own, each.published, points])
            differs |= each.points is not None and abs(each.points) > options.tolerance + 0.005
        print(aligned(cells))
        if compared is not None:
            print(f"the published row is of one network: {compared}, the nearest seed, is compared with it")
        print("".join(f"{note}\n" for note in notes(run, entry, board.rows(entry.board))), end="")
    print(f"\n{'differs by more than' if differs else 'agrees within'} {options.tolerance:g} points")
    return 1 if differs else 0


def _find_results(benchmark: str, detector: str) -> Path:
    """The one directory of results with rows of a benchmark and detector; raises PluginError on none and several."""
    from nci_plugin.checks import PluginError
    from nci_plugin.inputs import find_roots
    from nci_plugin.leaderboard.run import Run
    from nci_plugin.report.files import ResultsDirectory

    root = find_roots(benchmark).results
    found = []
    for path in sorted(root.glob("*/")):
        if ResultsDirectory(path).results_file.is_file():
            run = Run.read(path)
            if run.benchmark == benchmark and detector in run.detectors:
                found.append(path)
    if not found:
        raise PluginError(
            f"results: '{root}' holds none of '{detector}' on '{benchmark}'; run nci-ood eval {benchmark} --detectors"
            f" {detector}, or pass --results DIR"
        )
    if len(found) > 1:
        raise PluginError(f"results: {', '.join(map(str, found))} are all of '{benchmark}'; choose one with --results")
    return found[0]


def _entries(options: argparse.Namespace) -> tuple[Run, Board, list[Entry]]:
    """The rows that the options ask for; raises PluginError if there can be none."""
    from nci_plugin.checks import PluginError, check_known
    from nci_plugin.leaderboard.board import Board
    from nci_plugin.leaderboard.rows import entries
    from nci_plugin.leaderboard.run import Run, name_network

    run = Run.read(options.results)
    run.check_submittable()
    board = Board.checkout(options.board) if options.board else Board.snapshot()
    detectors = run.select(options.detectors)
    aliases = _pairs("--alias", options.alias)
    for name in aliases:
        check_known("detector of --alias", name, detectors)
    network = name_network(run, board, options.training, options.arch_name, options.description, options.outlier_data)
    found = entries(run, detectors, network, aliases, board)
    if not found:
        raise PluginError(f"results '{run.path}': no detector was scored for every seed; evaluate again")
    return run, board, found


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    from nci_plugin.checks import PluginError

    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise PluginError(f"{option} '{text}': must be NAME=VALUE")
        pairs[name] = value
    return pairs


def _print_notes(run: Run, board: Board, found: Sequence[Entry], options: argparse.Namespace) -> None:
    """The notes on all rows, each once with the rows that it is about."""
    from nci_plugin.leaderboard.comparability import notes

    about: dict[tuple[str, str], list[str]] = {}
    for entry in found:
        for note in notes(run, entry, board.rows(entry.board)):
            about.setdefault((entry.board, note), []).append(entry.row.postprocessor)
    for (name, note), rows in about.items():
        print(f"{name} {', '.join(rows)}: {note}")
    _print_left_out(run, options)


def _print_left_out(run: Run, options: argparse.Namespace) -> None:
    from nci_plugin.leaderboard.board import BOARDS

    if run.unrecorded:
        print(run.unrecorded)
    if run.incomplete and options.detectors is None:
        print(f"left out, not scored for every seed: {', '.join(run.incomplete)}")
    has, wanted = {result.setting for result in run.results}, BOARDS.get(run.benchmark, {})
    if "fsood" in has and wanted and "fsood" not in wanted:
        print(f"left out: the full spectrum, of which the leaderboard has no board for {run.benchmark}")
    if "fsood" in wanted and "fsood" not in has:
        print("left out: the full spectrum, of which there are no results")
