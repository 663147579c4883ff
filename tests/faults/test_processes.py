"""Many processes, one bank: the same bytes as of one process, and a message that names the process that died."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from children import HANGS, Whole, crew
from tiny import COUNTS, Tiny, tree

from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.features import processes
from nci_plugin.features.processes import ALONE, Processes, joined

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]


def split_files(output: Path) -> dict[str, bytes | None]:
    """Stored features without the statistics, whose merging rounds."""
    files = tree(output / "features")
    return {path: data for path, data in files.items() if "statistics-" not in path}


def statistics(output: Path, of: str = "") -> dict[str, torch.Tensor]:
    (path,) = output.rglob(f"{of}statistics-*")
    return safetensors.torch.load_file(path)


def assert_agrees(whole: Whole, output: str) -> None:
    """Features, scores and tables to the byte, statistics to 1e-12 of their norm."""
    here, alone = whole.tiny.root / output, whole.tiny.root / "whole"
    assert split_files(here) == split_files(alone)
    for part in ("scores", "ood", "fsood"):
        assert tree(here / part) == tree(alone / part)
    for name, expected in statistics(alone).items():
        assert (statistics(here)[name] - expected).norm() <= 1e-12 * expected.norm(), name
    assert not list(here.rglob("part-*"))
    assert not list(here.rglob(".*"))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_same_numbers(whole: Whole, size: int) -> None:
    """A split has one to three shards here: uneven shares, and lists that are shorter than the processes are many."""
    whole.tiny.list("far").write_text("far/0.png -1\n")
    assert main(whole.arguments("whole2")) == 0
    (whole.tiny.root / "whole").rename(whole.tiny.root / "before")
    (whole.tiny.root / "whole2").rename(whole.tiny.root / "whole")
    alone = len(whole.tiny.passes())
    children = crew(whole.arguments("out"), size)
    assert [child.wait() for child in children] == [0] * size
    assert "written to" in children[0].text
    assert [child.text for child in children[1:]] == [""] * (size - 1)
    assert len(whole.tiny.passes()) <= alone + 3 * (size - 1), "each image passes once, but for the first batch"
    assert_agrees(whole, "out")


def test_statistics_of_unit_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nci_plugin.features.shard_collector.STATISTICS_SECONDS", 0)
    whole = Whole(Tiny(tmp_path), ["msp", "nci", "mds_pp"])
    assert [child.wait() for child in crew(whole.arguments("out"), 2)] == [0, 0]
    here, alone = (whole.tiny.root / name for name in ("out", "whole"))
    for of in ("", "unit-"):
        for name, expected in statistics(alone, of).items():
            assert (statistics(here, of)[name] - expected).norm() <= 1e-12 * expected.norm(), name
    assert not list(here.rglob("*part-*"))


def test_several_networks(whole: Whole) -> None:
    for seed in range(2):
        whole.tiny.save_checkpoint(whole.tiny.checkpoints / f"s{seed}" / "best.ckpt", seed)
    runs = [
        whole.tiny.eval(*whole.detectors, ckpt_path=whole.tiny.checkpoints, output=whole.tiny.root / name)
        for name in ("alone", "out")
    ]
    assert main(runs[0]) == 0
    assert [child.wait() for child in crew(runs[1], 2)] == [0, 0]
    for part in ("ood", "fsood", "s0/scores", "s1/scores"):
        assert tree(whole.tiny.root / "out" / part) == tree(whole.tiny.root / "alone" / part)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_that_dies(whole: Whole, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """The others stop and name it; a rerun, also of another number of processes, goes on from what is stored."""
    monkeypatch.setattr(processes, "TIMEOUT", 2.0)
    monkeypatch.setattr(processes, "LINGER_SECONDS", 1.0)
    whole.control("signal", f"{rank} 4 {int(signal.SIGKILL)}")
    children = crew(whole.arguments("out"), 3)
    codes = [child.wait() for child in children]
    assert codes[rank] == -signal.SIGKILL
    for child in children[:rank] + children[rank + 1 :]:
        assert child.process.exitcode == 2
        named = f"process {rank} of 3 (died: no sign of it for 2 s|stopped)"
        assert re.search(rf"nci-ood: error: .*{named}.*run the same command to go on", child.text), child.text
        assert "Traceback" not in child.text
    whole.control("signal", None)
    shards = [path.name for path in (whole.tiny.root / "out").rglob("0*.safetensors")]
    assert shards
    again = crew(whole.arguments("out"), 2)
    assert [child.wait() for child in again] == [0, 0], again[0].text
    assert_agrees(whole, "out")


def test_a_part_of_the_statistics_is_known_again_by_another_process(whole: Whole) -> None:
    """Which shards are whose depends on the splits before; what was summed of the training split does not."""
    whole.control("signal", f"1 4 {int(signal.SIGKILL)}")
    children = crew(whole.arguments("out"), 2)
    assert children[1].wait() == -signal.SIGKILL
    if len(whole.detectors) == 2:
        assert list((whole.tiny.root / "out").rglob("part-1of2-00001-*"))
    children[0].process.kill()
    children[0].wait()
    whole.control("signal", None)
    with whole.tiny.list("test").open("a") as lines:
        lines.write("test/0.png 0\n")  # one shard more, before those of the training split
    shutil.rmtree(whole.tiny.root / "whole")
    assert main(whole.arguments("whole")) == 0
    assert [child.wait() for child in crew(whole.arguments("out"), 2)] == [0, 0]
    here, alone = (statistics(whole.tiny.root / name) for name in ("out", "whole"))
    for name, expected in alone.items():
        assert (here[name] - expected).norm() <= 1e-12 * expected.norm(), name


def test_bad_input_of_one_process_stops_all(whole: Whole) -> None:
    whole.tiny.image("near2", 5).write_bytes(b"no image")
    children = crew(whole.arguments("out"), 2)
    assert [child.wait() for child in children] == [2, 2]
    texts = [child.text for child in children]
    (found,) = [text for text in texts if "near2/5.png" in text]
    (other,) = [text for text in texts if text is not found]
    assert "cannot be decoded" in found
    assert f"process {texts.index(found)} of 2 stopped" in other


def test_bad_arguments_in_many_processes(whole: Whole) -> None:
    arguments = whole.arguments("out")
    arguments[arguments.index("msp")] = "msq"
    for rank, child in enumerate(crew(arguments, 2)):
        assert child.wait() == 2
        assert "unknown detector 'msq'" in child.text
        assert ("process 1 of 2: " in child.text) == (rank == 1)


def test_all_benchmarks_need_one_process(whole: Whole) -> None:
    for child in crew(["eval", "all", "--device", "cpu"], 2):
        assert child.wait() == 2
        assert "2 processes share one benchmark at a time; name one" in child.text


def test_a_second_crew_is_refused(whole: Whole) -> None:
    whole.control("sleep", "0.2")
    first = crew(whole.arguments("out"), 2)
    deadline = time.monotonic() + HANGS
    while not (whole.tiny.root / "out" / ".lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = crew(whole.arguments("out"), 2)
    assert [child.wait() for child in second] == [2, 2]
    assert "another command is at work there" in second[0].text
    assert "process 0 of 2 stopped" in second[1].text
    assert [child.wait() for child in first] == [0, 0]
    assert_agrees(whole, "out")


def torchrun(size: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={size}", "-m", "nci_plugin"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_torchrun(whole: Whole, size: int) -> None:
    done = torchrun(size, whole.arguments("out"))
    assert done.returncode == 0, done.stderr
    assert_agrees(whole, "out")
    assert sum(whole.tiny.passes()) <= sum(COUNTS.values()) + 3 * 4 * size


@pytest.mark.slow
def test_torchrun_when_a_process_dies(whole: Whole) -> None:
    whole.control("sleep", "0.5")
    whole.control("signal", f"1 3 {int(signal.SIGKILL)}")
    done = torchrun(3, whole.arguments("out"))
    assert done.returncode != 0
    assert "process 0 of 3 stops, since process 1 died" in done.stderr
    assert "process 2 of 3 stops, since process 1 died" in done.stderr
    for name in ("sleep", "signal"):
        whole.control(name, None)
    assert torchrun(2, whole.arguments("out")).returncode == 0
    assert_agrees(whole, "out")


# -------------------------------------------------------------------- Processes


def in_a_crew(size: int, work: Callable[[], None]) -> None:
    """Work in several processes, with counters that outlive it, as torchrun's do."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launched = {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}

    def child() -> None:
        os.environ.update({name: str(value) for name, value in launched.items()})
        work()

    children = crew(["list"], size, before=child)
    assert [each.wait() for each in children] == [0] * size, "".join(each.text for each in children)


def ranks(here: Processes) -> list[int]:
    return [int(each["rank"]) for each in here.together(lambda: {"rank": torch.tensor(here.rank)})]


def test_joined_again(tmp_path: Path) -> None:
    """What processes told one another the first time is not taken for an answer the second time."""

    def work() -> None:
        for number in range(3):
            with joined() as here:
                assert ranks(here) == [0, 1]
                time.sleep(0.2 * here.rank)
                (tmp_path / f"{number}-{here.rank}").touch()
                here.wait()
                assert (tmp_path / f"{number}-1").exists()

    in_a_crew(2, work)


def test_no_thread_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Python's nor gloo's: one that wants Python when that ends aborts the process."""
    monkeypatch.setattr(Processes, "_beat", lambda self, stop: (stop.wait(), time.sleep(0.3)))

    def work() -> None:
        before = threading.active_count()
        with joined() as here:
            assert ranks(here) == [0, 1]
            assert threading.active_count() == before + 1
        assert threading.active_count() == before
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]  # as Linux shows them
        assert "gloo" not in "".join(names)

    in_a_crew(2, work)


def of_cuda_alone(*arguments: Any) -> Any:
    return torch.distributed.ProcessGroupGloo(*arguments)


def test_beside_a_group_that_takes_no_tensors_of_the_cpu() -> None:
    """As a training script's of NCCL: what is gathered goes through a group of its own, and theirs is left."""

    def work() -> None:
        distributed = torch.distributed
        distributed.Backend.register_backend("of_cuda_alone", of_cuda_alone, devices=["cuda"])
        distributed.init_process_group("of_cuda_alone")
        with pytest.raises(RuntimeError, match="cpu"):
            distributed.all_reduce(torch.ones(1))
        for _ in range(2):
            with joined() as here:
                assert ranks(here) == [0, 1]
        assert distributed.get_backend() == "of_cuda_alone"
        os.environ["RANK"] = str(1 - here.rank)
        named = r"says that this is process \d of 2, the environment that it is"
        with pytest.raises(PluginError, match=named), joined() as here:
            ranks(here)

    in_a_crew(2, work)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_piece_of_work_is_taken_once_and_by_turns(size: int) -> None:
    counts, taken, before = (5, 1, 0, 2, 9), [], 0
    for count in counts:
        shares = [Processes(rank, size).share(count, before) for rank in range(size)]
        assert sorted(number for share in shares for number in share) == list(range(count))
        taken += [(before + number, rank) for rank, share in enumerate(shares) for number in share]
        before += count
    assert all(rank == number % size for number, rank in taken)


def test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as processes, processes.in_turn(), processes.locked(tmp_path / "out"):
        processes.wait()
        assert processes is ALONE
        assert processes.is_first
        assert processes.device(torch.device("cuda")) == torch.device("cuda")


def test_one_gpu_for_each_process_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for rank, number in ((0, 0), (3, 3), (5, 1)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert Processes(rank, 8).device(torch.device("cuda")) == torch.device("cuda", number)
    assert Processes(1, 8).device(torch.device("cuda:2")) == torch.device("cuda:2")
    assert Processes(1, 8).device(torch.device("cpu")) == torch.device("cpu")
    assert current == [torch.device("cuda", number) for number in (0, 3, 1)]


def test_a_store_that_is_gone() -> None:
    class Gone:
        def add(self, key: str, more: int) -> int:
            raise RuntimeError("Connection reset by peer\nC++ stack")

    with pytest.raises(PluginError, match=r"process 0 of 2 stopped, no other .* \(Connection reset by peer\); run"):
        Processes(1, 2, Gone()).wait()
