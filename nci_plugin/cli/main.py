"""The command ``nci-ood``: guards around everything that a sub-command does.

A sub-command is two things. Its options are a frozen dataclass in `commands` or one of its neighbours, decorated with
``@command(name, help)``: a field for each option, its help beside it, the class's docstring its description; options
that several commands have are a class in `groups`, held by ``network: Network = group(Network)``. What it does is
``run(options) -> int`` in the module of its name, ``cli/eval.py`` for ``eval``, with all imports at its top: only the
module of the chosen sub-command is imported, and none for ``--help``. ``run`` returns the exit code and raises
PluginError on what cannot be used.

Nothing is imported here but what the interpreter has loaded already: `main` stands guard before all else is.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

INTERRUPTED = 130
GO_ON = "nci-ood: interrupted; what was finished is kept, run the same command to go on"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; ``arguments`` are the process's own where None are given, and it is expected to end then.

    Returns its exit code: 0 done, 1 a detector failed or a comparison differs, 2 bad input, 130 interrupted.
    """
    handlers = {}
    try:
        import signal

        # SIGTERM as SIGINT, for what is at work to clean up. Who ignores SIGINT, as background jobs do, goes on so.
        for number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGTERM or signal.getsignal(number) is signal.default_int_handler:
                handlers[number] = signal.signal(number, _interrupt)
        return _run(arguments)
    except KeyboardInterrupt:
        print(f"\n{GO_ON}", file=sys.stderr)
        return INTERRUPTED
    finally:
        for number, handler in handlers.items():
            # A process that is about to end has nothing left to stop, and Python's own end is no place for it.
            ends = arguments is None and number == signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ends else handler)


def _run(arguments: Sequence[str] | None) -> int:
    """`main`, but for signals."""
    try:
        _make_printable()
        from nci_plugin.cli.parser import function_of, parse

        name, options = parse(arguments)
        run = function_of(name)  # imports torch, or what else the sub-command needs
        from nci_plugin.checks import PluginError, one_line

        _print_messages()
        try:
            code = run(options)
        except PluginError as error:
            for line in error.details:
                print(line)
            print(f"nci-ood: error: {error}", file=sys.stderr)
            code = 2
        except SystemExit as error:  # of a user's code; argparse is done
            print(
                f"nci-ood: error: a user's code ended the command ({one_line(repr(error.code))}), which is not done;"
                " take sys.exit out of it",
                file=sys.stderr,
            )
            code = 2
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    # What the system refuses, and texts and files that are too much: of these no check can know all before.
    except (OSError, UnicodeError, RecursionError, MemoryError) as error:
        _print_the_rest()
        if isinstance(error, BrokenPipeError):  # the reader, head say, has seen enough
            return 1
        print(f"nci-ood: error: {_described(error)}", file=sys.stderr)
        return 2


def _described(error: BaseException) -> str:
    """One line about an error that the system or Python raised."""
    from nci_plugin.checks import one_line

    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename!r}: {error.strerror}" if error.filename is not None else error.strerror
    elif isinstance(error, RecursionError):
        text = "a file or a directory is nested too deeply"
    elif isinstance(error, MemoryError):
        text = "this machine has not enough memory for it"
    else:
        text = f"{type(error).__name__}: {error}"
    return one_line(f"{text}; correct that, and run the same command again")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; but end the process at once where it is importing.

    What is raised in the middle of an import may be swallowed, printed as a traceback or end in an abort, as libraries
    written in C take it. Nothing is at work then that a rerun would not put right.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"\n{GO_ON}\n".encode())
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _make_printable() -> None:
    """Let no character fail to be printed: one that the terminal lacks is written as an escape, and ± as +-.

    Lines are written as they come, so that in a file too an error stands below what was printed before it.
    """
    import codecs

    def plain(error: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(error, UnicodeEncodeError) and error.object[error.start] == "±":
            return "+-", error.start + 1
        return codecs.backslashreplace_errors(error)

    codecs.register_error("nci_plugin_plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="nci_plugin_plain", line_buffering=True)


def _print_messages() -> None:
    """Print what modules log: warnings on standard error, as those of `warnings`, the rest on standard output."""
    import logging
    import warnings

    from nci_plugin.report.terminal import folded

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                print(record.getMessage(), file=sys.stderr)
            else:
                print(folded(record.getMessage()))

    logger = logging.getLogger("nci_plugin")
    logger.handlers = [Printing()]
    logger.setLevel(logging.INFO)
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning of `warnings`: one for who typed the command without the place in the code."""
    import warnings

    text = f"{message}\n" if category is UserWarning else warnings.formatwarning(message, category, filename, lineno)
    print(text, end="", file=sys.stderr)


def _print_the_rest() -> None:
    """Print what waits to be printed, or send it to nowhere: Python would try again at its end, with a traceback."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
