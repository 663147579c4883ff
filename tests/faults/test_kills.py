"""A run that is killed, told to stop or runs out of disk goes on from its last finished shard, to the same bytes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import HANGS, Child, Whole
from filelock import FileLock
from tiny import stored

from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.files import locked

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]


def test_kill_9_at_random_moments(whole: Whole, record_property: Callable[[str, Any], None]) -> None:
    """Whatever was at work then; most kills come upon what those before left. A run that ended first is checked."""
    whole.control("sleep", "0.01")
    moments, killed, ended = random.Random(0), 0, 0
    while killed < 20:
        child = Child(whole.arguments(f"out{ended}"))
        time.sleep(moments.uniform(0, whole.seconds / 2))
        child.process.kill()
        if child.wait() == -signal.SIGKILL:
            killed += 1
        else:
            assert child.process.exitcode == 0
            whole.assert_same(f"out{ended}")
            ended += 1
    assert main(whole.arguments(f"out{ended}")) == 0
    whole.assert_same(f"out{ended}")
    record_property("count", f"{killed} kills survived, in {ended + 1} runs")


@pytest.mark.parametrize("after", [1, 4, 7, 11, 16])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_in_the_pass(whole: Whole, after: int, number: int) -> None:
    """No pass is made twice but the one that was stopped, and those of the first batch."""
    whole.control("signal", f"0 {after} {int(number)}")
    child = Child(whole.arguments("out"))
    assert child.wait() == (-number if number == signal.SIGKILL else 130)
    if number != signal.SIGKILL:
        assert "run the same command to go on" in child.text
        assert "Traceback" not in child.text
        assert not list((whole.tiny.root / "out").rglob(".*"))
    whole.control("signal", None)
    done = len(whole.tiny.passes())
    assert main(whole.arguments("out")) == 0
    assert done + len(whole.tiny.passes()) - whole.passes <= 1 + 3
    whole.assert_same("out")


@pytest.mark.parametrize("limit", [100, 350, 500, 900, 1200])
def test_disk_full(whole: Whole, limit: int) -> None:
    """A file of more bytes than the limit cannot be written: the disk is full at the first of them."""
    child = Child(whole.arguments("out"), before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert child.wait() == 2
    assert re.search(r"\nnci-ood: error: cannot write '.*': File too large; free space or .*\n$", child.text)
    assert not list((whole.tiny.root / "out").rglob(".*"))
    assert main(whole.arguments("out")) == 0
    whole.assert_same("out")


def test_a_second_command_is_refused(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    whole.control("sleep", "0.2")
    first = Child(whole.arguments("out"))
    deadline = time.monotonic() + HANGS
    while not list((whole.tiny.root / "out").glob(".lock")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert main(whole.arguments("out")) == 2
    error = capsys.readouterr().err
    assert error == (
        f"nci-ood: error: output '{whole.tiny.root / 'out'}': another command is at work there; wait for it, or choose"
        " another output\n"
    )
    assert first.wait() == 0
    whole.assert_same("out")


def test_a_killed_command_leaves_no_lock(whole: Whole) -> None:
    whole.control("signal", f"0 3 {int(signal.SIGKILL)}")
    assert Child(whole.arguments("out")).wait() == -signal.SIGKILL
    assert (whole.tiny.root / "out" / ".lock").exists()
    whole.control("signal", None)
    assert main(whole.arguments("out")) == 0
    whole.assert_same("out")


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 9])
def test_the_real_process(whole: Whole, after: int) -> None:
    whole.control("signal", f"0 {after} {int(signal.SIGKILL)}")
    command = [sys.executable, "-m", "nci_plugin", *whole.arguments("out")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    whole.control("signal", None)
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert stored(whole.tiny.root / "out") == stored(whole.tiny.root / "whole")


# -------------------------------------------------------------------- the lock


def test_a_forked_process_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """Neither while the parent has it nor after the parent, and the parent keeps it when the child ends."""
    directory = tmp_path / "out"
    read, write = os.pipe()

    def hold() -> None:
        with locked(directory):
            sleeper = os.fork()
            if not sleeper:
                os.close(write)
                time.sleep(60)
                os._exit(0)
            os.write(write, f"{sleeper}\n".encode())
            time.sleep(60)

    parent = multiprocessing.get_context("fork").Process(target=hold)
    parent.start()
    sleeper = int(os.read(read, 20))
    try:
        with pytest.raises(PluginError, match="another command is at work there"), locked(directory):
            pass
        parent.kill()
        parent.join()
        with locked(directory):
            pass
    finally:
        parent.kill()
        os.kill(sleeper, signal.SIGKILL)


def test_a_lock_outlives_the_processes_that_were_forked_meanwhile(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()
        with pytest.raises(PluginError, match="another command is at work there"), locked(tmp_path / "out"):
            pass


def test_lock(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    with locked(directory):
        (directory / f".shard.{'0' * 32}.tmp").write_text("of no one, but newer than the lock")
        with pytest.raises(PluginError, match="another command is at work there"), locked(directory):
            pass
        (directory / "file").write_text("kept")
    (directory / "sub").mkdir()
    (directory / "sub" / f".shard.{'f' * 32}.tmp").write_text("left by a killed run")
    (directory / ".hidden.tmp").write_text("the user's")
    with locked(directory):
        assert sorted(path.name for path in directory.rglob("*")) == [".hidden.tmp", ".lock", "file", "sub"]


def test_a_directory_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOLCK, "No locks available"), (errno.ENOSYS, "Function not implemented")]
)
def test_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, said: str
) -> None:
    def refuse(lock: FileLock) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with locked(tmp_path / "out"):
        (tmp_path / "out" / "file").write_text("kept")
    assert caplog.messages == [f"{tmp_path / 'out'}: not locked ({said}); start no second command that writes there"]
