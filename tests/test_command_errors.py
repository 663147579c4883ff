"""What the system refuses, and interrupts at any moment: one line and an exit code, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from command import command
from tiny import Tiny

from nci_plugin.cli import commands
from nci_plugin.cli import main as main_module
from nci_plugin.cli.main import GO_ON, main
from nci_plugin.cli.options import COMMANDS
from nci_plugin.cli.parser import function_of, parse
from nci_plugin.files import locked
from nci_plugin.networks.factory import build_network

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Tiny(tmp_path)


def refused(arguments: list[str]) -> str:
    code, _, error = command(arguments)
    assert code == 2, error
    assert error.startswith("nci-ood: error: ")
    assert error.count("\n") == 1
    assert error.strip().isprintable()
    return error


def process(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "nci_plugin", *arguments], env=environment, capture_output=True, check=False, **options
    )


# -------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 2500, "a\0b", "\udcff" * 300], ids=["300", "5000", "nul", "bytes"])
@pytest.mark.parametrize("option", ["output", "data_root", "ckpt_path", "benchmark", "detectors", "net"])
def test_paths_that_no_file_can_have(tiny: Tiny, name: str, option: str) -> None:
    if option == "benchmark":
        refused(["eval", f"{name}/x.yml"])
    elif option == "detectors":
        refused(tiny.eval(f"{name}.yml"))
    else:
        refused(tiny.eval(**{option: f"{name}.py:make" if option == "net" else tiny.root / name}))


@pytest.mark.parametrize("kind", ["dangling link", "file", "link in a circle", "below a file"])
def test_an_output_that_can_be_no_directory(tiny: Tiny, kind: str) -> None:
    tiny.output.unlink(missing_ok=True)
    if kind == "dangling link":
        tiny.output.symlink_to(tiny.root / "gone" / "further")
    elif kind == "link in a circle":
        tiny.output.symlink_to(tiny.output)
    else:
        tiny.output.write_text("mine")
    refused(tiny.eval(output=tiny.output / "x" if kind == "below a file" else tiny.output))
    assert kind in ("dangling link", "link in a circle") or tiny.output.read_text() == "mine"
    assert not (tiny.root / "gone").exists()


def test_a_directory_where_a_table_is_to_be(tiny: Tiny) -> None:
    (tiny.output / "ood" / "msp.csv").mkdir(parents=True)
    assert "msp.csv" in refused(tiny.eval())
    assert (tiny.output / "ood" / "msp.csv").is_dir()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("name", ["scandir", "mkdir", "stat"])
def test_what_the_system_refuses(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """As another user would see a directory that is root's; tests may run as root, who sees all."""
    if name != "scandir" and sys.version_info < (3, 10):
        pytest.skip("pathlib of Python 3.9 holds functions of its own, which a test cannot replace")
    real: Callable[..., Any] = getattr(os, name)

    def refuse(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, (str, os.PathLike)) and str(tiny.root / "closed") in os.fspath(path):
            raise OSError(number, os.strerror(number), os.fspath(path))
        return real(path, *arguments, **options)

    (tiny.root / "closed").mkdir()
    monkeypatch.setattr(os, name, refuse)
    code, _, error = command(
        tiny.eval(output=tiny.root / "closed" / "out" if name == "mkdir" else tiny.root / "closed")
    )
    monkeypatch.undo()
    assert code == 2
    assert error.count("\n") == 1, error


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for arguments in (
        ["eval", "digits"],
        ["eval", "digits", "--net", "some.module:make"],
        ["leaderboard", "rank", "x"],
    ):
        refused(arguments)


def test_a_directory_of_many_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than Python recurses."""
    output = tmp_path / "out"
    output.mkdir()
    monkeypatch.chdir(output)
    try:
        for _ in range(2000):
            os.mkdir("d")
            os.chdir("d")
        monkeypatch.chdir(tmp_path)
        with locked(output):
            (output / "file").write_text("kept")
        assert refused(["dynamics", str(output)])
    finally:
        subprocess.run(["rm", "-r", str(output)], check=True)  # shutil.rmtree, pytest's too, recurses


def test_names_that_are_not_utf_8(tiny: Tiny) -> None:
    """Images and lists may lie there; an output may not, since safetensors opens no such file."""
    place = tiny.root / os.fsdecode(b"caf\xe9")
    tiny.data.rename(place)
    code, _, error = command(tiny.eval(data_root=place))
    assert (code, error) == (0, "")
    assert "\\udce9" in (tiny.output / "results.jsonl").read_text(encoding="utf-8")
    assert "cannot write there" in refused(tiny.eval(data_root=place, output=place / "out"))
    assert not (place / "out").exists()


# -------------------------------------------------------------------- what is printed


def test_a_terminal_without_the_character(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path, seeds=2)
    done = process(tiny.eval(ckpt_path=tiny.checkpoints), env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b" +- " in done.stdout
    assert done.stdout.isascii()
    assert "±" in (tiny.output / "ood" / "msp.csv").read_text(encoding="utf-8")


def test_characters_are_printed_as_they_are_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("utf-8", "± é – \\udcff"), ("latin-1", "± é \\u2013 \\udcff"), ("ascii", None)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        main_module._make_printable()
        print("± é – \udcff", end="", flush=True)
        monkeypatch.undo()
        text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert text == (expected or "+- \\xe9 \\u2013 \\udcff")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's")
def test_a_full_disk_behind_the_standard_output() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nci_plugin", "list"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"nci-ood: error: No space left on device")
    assert done.stderr.count(b"\n") == 1


# -------------------------------------------------------------------- odd values


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits", "--seeds", "9" * 20],
        ["train", "digits", "--seeds", "-1"],
        ["train", "digits", "--width", "9" * 40],
        ["train", "digits", "--depth", "9" * 20, "--network", "mlp", "--width", "0"],
        ["train", "digits", "--weight-decay", "nan"],
        ["train", "digits", "--weight-decay", "1e999"],
        ["eval", "digits", "--workers", "9" * 20],
        ["eval", "digits", "--workers", "-1"],
        ["eval", "digits", "--batch-size", "9" * 20],
        ["eval", "digits", "--batch-size", "0"],
        ["eval", "digits", "--device", "cuda:" + "9" * 20],
        ["eval", "digits", "--device", "meta"],
        ["eval", "\ud800"],
        ["eval", "digits", "--detectors", "\ud800"],
        ["explain", "x.png", "digits", "--tpr", "nan"],
        ["dynamics", "x", "--threshold", "nan"],
        ["dynamics", "x", "--threshold", "1e999"],
        ["dynamics", "x", "--sustained", "0"],
        ["dynamics", "x", "--condition", "a=1e999"],
        ["dynamics", "x", "--condition", "a=-1e999"],
        ["dynamics", "x", "--condition", "a=" + "9" * 400],
        ["dynamics", "x", "--condition", "a=" + "x" * 200],
        ["dynamics", "x", "--condition", "\x1b[2J=1"],
        ["dynamics", "x", "--condition", "a=1", "a=2"],
        ["dynamics", "x", "--condition", "a"],
        ["leaderboard", "compare", "cifar10", "nci", "--tolerance", "nan"],
        ["leaderboard", "rank", "x", "--around", "-1"],
        ["report", "\ud800"],
        ["install", "--into", "\ud800"],
    ],
    ids=lambda arguments: " ".join(arguments)[:50].encode("unicode_escape").decode(),
)
def test_odd_values(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(arguments)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------- what the user's code raises


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("done"), Odd(), GeneratorExit(), MemoryError()])
@pytest.mark.parametrize("place", ["import", "call"])
def test_a_factory_that_ends_the_process(tiny: Tiny, error: BaseException, place: str) -> None:
    text = f"class Odd(BaseException): pass\ndef make(num_classes):\n    raise {error!r}\n"
    (tiny.root / "ends.py").write_text(text if place == "call" else f"{text}make(1)\n")
    assert type(error).__name__ in refused(tiny.eval(net=f"{tiny.root / 'ends.py'}:make"))


def test_an_interrupt_in_a_factory_is_one(tiny: Tiny) -> None:
    (tiny.root / "stops.py").write_text("def make():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        build_network(f"{tiny.root / 'stops.py'}:make", 3, {})
    assert command(tiny.eval(net=f"{tiny.root / 'stops.py'}:make"))[0] == 130


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a\x1bb"), "'/a\\x1bb': Permission denied"),
        (OSError("no number"), "no number"),
        (RecursionError("maximum"), "nested too deeply"),
        (MemoryError(), "not enough memory"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "surrogates"),
        (SystemExit(0), "ended the command (0)"),
        (SystemExit("bye\nbye"), "ended the command"),
    ],
)
def test_errors_that_no_check_can_know_before(monkeypatch: pytest.MonkeyPatch, error: BaseException, text: str) -> None:
    monkeypatch.setattr("nci_plugin.cli.list.run", raising(error))
    assert text in refused(["list"])


def test_a_fault_of_this_package_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nci_plugin.cli.list.run", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def raising(error: BaseException) -> Callable[..., int]:
    def run(options: Any) -> int:
        raise error

    return run


# -------------------------------------------------------------------- interrupts

INTERRUPTED_THERE = """
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
imported, place = builtins.__import__, {place!r}
def find(name, *arguments, **options):
    found = imported(name, *arguments, **options)
    if name == place:
        os.kill(os.getpid(), signal.{signal})
    return found
builtins.__import__ = find
from nci_plugin.cli.main import main
sys.exit(main(["list"]))
"""


@pytest.mark.parametrize(
    ("place", "number"),
    [("argparse", "SIGINT"), ("torch", "SIGINT"), ("numpy", "SIGTERM"), ("nci_plugin.config", "SIGINT")],
)
def test_an_interrupt_while_modules_are_imported(place: str, number: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_THERE.format(place=place, signal=number)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.decode().strip() == GO_ON
    assert done.stdout == b""


def test_an_error_in_a_file_stands_below_what_was_printed_before_it(tiny: Tiny, tmp_path: Path) -> None:
    tiny.image("far", 0).write_bytes(b"")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(tmp_path / "log", "w+b") as log:
        done = subprocess.run(
            [sys.executable, "-m", "nci_plugin", *tiny.eval()],
            env={**buffered, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            check=False,
        )
    first, *_, last = (tmp_path / "log").read_text().splitlines()
    assert done.returncode == 2
    assert first.startswith("device: ")
    assert last.startswith("nci-ood: error: split 'far/far': image ")


def test_who_ignores_interrupts_goes_on_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As commands that a shell script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr("nci_plugin.cli.list.run", lambda options: os.kill(os.getpid(), signal.SIGINT) or 0)
        assert main(["list"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert command(["list"])[0] == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_every_command_has_a_module_that_runs_it() -> None:
    modules = {path.stem for path in (ROOT / "nci_plugin" / "cli").glob("*.py")}
    assert {name.split()[0] for name in COMMANDS} == modules - {
        "__init__",
        "main",
        "commands",
        "groups",
        "leaderboard_commands",
        "service_commands",
        "tool_commands",
        "options",
        "parser",
        "network",
        "eval_all",
        "service",
    }
    for name, (_, options) in COMMANDS.items():
        assert get_type_hints(function_of(name))["options"] is options


@pytest.mark.parametrize("arguments", [["eval", "digits", "--output", ""], ["eval", "--ckpt-path", ""], ["table", ""]])
def test_an_empty_path_is_not_the_working_directory(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "is empty; name a file or directory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_options_do_not_change() -> None:
    _, options = parse(["eval", "digits", "--csid", "a", "b", "--batch-size", "3", "--root", "x"])
    assert options == commands.Eval(
        "digits",
        network=commands.Network(ckpt_path=Path("x")),
        data=commands.Data(csid=("a", "b")),
        passing=commands.Pass(batch_size=3),
    )
    for part in (options, options.network, options.data, options.passing):
        with pytest.raises(FrozenInstanceError):
            part.device = "cpu"
        assert hash(part) == hash(part)  # no part of it is a list
