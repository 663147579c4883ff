"""``nci-ood run``, as far as it needs no OpenOOD: its arguments, the pickles it looks for, how a script is run."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nci_plugin.adapters.openood.scripts import found_pickles, run_script, with_shipped_configs
from nci_plugin.checks import PluginError
from nci_plugin.cli import run as run_command
from nci_plugin.cli.main import main
from nci_plugin.config import config_directory

CPU = torch.device("cpu")
SHIPPED = config_directory() / "postprocessors"


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return [root / name for name in names]


def found(script: str, arguments: str, root: Path) -> set[str]:
    paths = found_pickles(root / "scripts" / script, arguments.split())
    return {str((Path.cwd() / path).resolve().relative_to(root)) for path in paths}


@pytest.mark.parametrize("script", ["eval_ood.py", "attack_ood.py"])
def test_pickles_of_seeds(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").mkdir()
    names = {"r/s0/postprocessors/neco.pkl", "r/s1/scores/neco.pkl", "r/s10/scores/neco.pkl"}
    others = {"r/s0/postprocessors/nci.pkl", "r/s0/scores/msp.pkl", "r/s0/neco.pkl", "r/t0/scores/neco.pkl"}
    touch(tmp_path, *names, *others)
    assert found(script, "--root r --postprocessor neco", tmp_path) == names
    assert found(script, "--id-data cifar10 --postproc=neco --save-csv --root r/", tmp_path) == names
    assert found(script, f"--root {tmp_path}/r --postprocessor nci", tmp_path) == {"r/s0/postprocessors/nci.pkl"}
    assert found(script, "--root r", tmp_path) == {"r/s0/scores/msp.pkl"}  # its default
    for arguments in ("", "--help", "--root", "--root nowhere", "--postprocessor"):
        assert found(script, arguments, tmp_path) == set()


def test_pickles_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").mkdir()
    beside, resnet, swin, clip = names = [
        "c/postprocessors/nci.pkl",
        "results/imagenet_resnet50_tvsv1_base_default/scores/nci.pkl",
        "results/imagenet_swin-t_tvsv2_base_default/postprocessors/nci.pkl",
        "results/imagenet_clip_ViT-B-16/postprocessors/nci.pkl",
    ]
    touch(tmp_path, *names)
    script = "eval_ood_imagenet.py"
    nci = "--postprocessor nci"
    assert found(script, f"{nci} --ckpt-path c/net.pth", tmp_path) == {beside}
    assert found(script, f"{nci} --tvs-pretrained", tmp_path) == {resnet}
    assert found(script, f"{nci} --tvs-pretrained --arch swin-t --tvs-version 2", tmp_path) == {swin}
    assert found(script, f"{nci} --tvs-pretrained --ckpt-path c/net.pth", tmp_path) == {resnet}
    assert found(script, nci, tmp_path) == set()
    assert found("eval_ood_imagenet_foundation_models.py", nci, tmp_path) == {clip}
    assert found("another.py", f"{nci} --root c", tmp_path) == set()
    monkeypatch.chdir(tmp_path / "c")
    assert found(script, f"{nci} --ckpt-path net.pth", tmp_path) == {beside}


def test_moving_pickles_aside(tmp_path: Path, capsys: Any) -> None:
    paths = touch(tmp_path, "a.pkl", "b.pkl")
    touch(tmp_path, "b.pkl.old")
    with pytest.raises(PluginError, match="and 1 more, which can run any code; pass --fresh") as error:
        run_command._keep_away(paths, move=False)
    assert error.value.details == tuple(f"pickle: {path}" for path in paths)
    run_command._keep_away(paths, move=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pkl.old", "b.pkl.old", "b.pkl.old2"]
    assert capsys.readouterr().out.splitlines() == [
        f"moved aside: {tmp_path / 'a.pkl'} -> a.pkl.old",
        f"moved aside: {tmp_path / 'b.pkl'} -> b.pkl.old2",
    ]
    run_command._keep_away([], move=False)


def test_shipped_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "configs/postprocessors/nci.yml")
    given = [
        "--config",
        "configs/postprocessors/neco.yml",
        "configs/postprocessors/nci.yml",
        "configs/postprocessors/no_such.yml",
        "configs/datasets/neco.yml",
        "neco.yml",
        "--mark=postprocessors/neco.yml",
    ]
    replaced = with_shipped_configs(given, SHIPPED)
    assert replaced == [given[0], str(SHIPPED / "neco.yml"), *given[2:6], "--mark=postprocessors/neco.yml"]
    assert caplog.messages == [f"config: {given[1]} is not there, using {SHIPPED / 'neco.yml'}"]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "code"),
    [("pass", 0), ("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(7)", 7), ("sys.exit('text')", 1)],
)
def test_exit_codes(line: str, code: int, tmp_path: Path, capsys: Any) -> None:
    assert run_script(write(tmp_path / "script.py", "import sys", line), [], CPU, False) == code
    assert capsys.readouterr().err == ("text\n" if code == 1 else "")


def test_what_a_script_sees_ends_with_it(tmp_path: Path, capsys: Any) -> None:
    path = write(
        tmp_path / "script.py",
        "import pickle, sys, torch",
        "print(sys.argv, sys.path[0], __name__, __file__)",
        "print(torch.zeros(1).cuda().device)",
        "sys.path.append('elsewhere')",
        "sys.stdout.close()",
        "sys.stdout = None",
        "raise ValueError",
    )
    before = [sys.argv, sys.path, [*sys.path], sys.stdout, sys.modules["__main__"], pickle.load, torch.load]
    before.append(torch.Tensor.cuda)
    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        run_script(path, ["--root", "x"], CPU, False)
    after = [sys.argv, sys.path, [*sys.path], sys.stdout, sys.modules["__main__"], pickle.load, torch.load]
    after.append(torch.Tensor.cuda)
    assert after[2] == before[2]
    assert all(mine is theirs for mine, theirs in zip(after[:2] + after[3:], before[:2] + before[3:]))
    print("still open")
    assert capsys.readouterr().out.splitlines() == [
        f"{[str(path), '--root', 'x']} {tmp_path} __main__ {path}",
        "cpu",
        "still open",
    ]


@pytest.mark.parametrize("reader", ["pickle.load(file)", "numpy.load(file, allow_pickle=True)"])
def test_unpickling_is_refused(reader: str, tmp_path: Path) -> None:
    content = tmp_path / "content"
    with content.open("wb") as file:
        if "numpy" in reader:
            np.save(file, np.array(["anything"], dtype=object))
        else:
            pickle.dump(["anything"], file)
    path = write(
        tmp_path / "script.py",
        "import pickle, numpy",
        f"with open({str(content)!r}, 'rb') as file:",
        f"    assert {reader} == ['anything']",
    )
    with pytest.raises(PluginError, match="would unpickle '.*content'") as error:
        run_script(path, [], CPU, trust_pickles=False)
    assert "--trust-pickles" in str(error.value)
    assert run_script(path, [], CPU, trust_pickles=True) == 0


def test_options_of_the_command_come_before_the_script(capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["run", "--fresh", "--trust-pickles", "script.py"])
    assert exit.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
    assert main(["run", "--device", "gpu", "script.py", "--device", "cpu"]) == 2
    assert "device 'gpu'" in capsys.readouterr().err
