"""What a script may unpickle under ``nci-ood run``: data by any reader, code by none."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from nci_plugin.adapters.openood.scores import MARK, is_ours, is_whole, scores_file
from nci_plugin.adapters.openood.scripts import is_known, run_script
from nci_plugin.adapters.openood.unpickling import only_data_is_unpickled
from nci_plugin.checks import PluginError

CPU = torch.device("cpu")


class Trap:
    """Its pickle makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def plain(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def as_array(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([content, 1], dtype=object))


def as_old_checkpoint(path: Path, content: Any) -> None:
    torch.save({"weight": torch.zeros(2), "more": content}, path, _use_new_zipfile_serialization=False)


READERS: dict[str, tuple[Callable[[Path, Any], Any], str]] = {
    "pickle.load": (plain, "pickle.load(file)"),
    "pickle.loads": (plain, "pickle.loads(file.read())"),
    "pickle.Unpickler": (plain, "pickle.Unpickler(file).load()"),
    "a subclass": (plain, "type('Own', (pickle.Unpickler,), {})(file).load()"),
    "pickle._Unpickler": (plain, "pickle._Unpickler(file).load()"),
    "pickle._loads": (plain, "pickle._loads(file.read())"),
    "_pickle.load": (plain, "_pickle.load(file)"),
    "_pickle.loads": (plain, "_pickle.loads(file.read())"),
    "numpy": (as_array, "numpy.load(file, allow_pickle=True)"),
    "joblib": (lambda path, content: joblib.dump(content, path), "joblib.load(file.name)"),
    "pandas": (lambda path, content: pd.to_pickle([content], path), "pandas.read_pickle(file.name)"),
    "torch": (lambda path, content: torch.save([content], path), "torch.load(file, weights_only=False)"),
    "torch, old": (as_old_checkpoint, "torch.load(file, weights_only=False)"),
    "in a pickle": (
        lambda path, content: plain(path, Nested(pickle_in_torch(content))),
        "pickle.loads(file.read())",
    ),
}


REFUSED = ("pickle.load", "numpy", "pandas", "joblib")
"""Of any file, with its name: those use ``pickle.load``; joblib writes its own class around arrays."""


class Nested:
    """Its pickle holds another one, which torch reads."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.content,)


def pickle_in_torch(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("reader", READERS)
def test_code_that_a_pickle_names_is_not_run(reader: str, tmp_path: Path) -> None:
    write, call = READERS[reader]
    trap, content = tmp_path / "trap", tmp_path / "content"
    write(content, Trap(trap))
    read = script(
        tmp_path / "script.py",
        "import _pickle, joblib, numpy, pandas, pickle, torch",
        f"with open({str(content)!r}, 'rb') as file:",
        f"    {call}",
    )
    with pytest.raises(PluginError, match="would unpickle .*--trust-pickles") as error:
        run_script(read, [], CPU, trust_pickles=False)
    assert len(str(error.value).splitlines()) == 1
    assert "mkdir" in str(error.value) or str(content) in str(error.value)
    assert not trap.exists()
    assert run_script(read, [], CPU, trust_pickles=True) == 0
    assert trap.is_dir()


ARRAYS = {
    "a": np.arange(3.0),
    "b": {1, 2},
    "c": [np.float32(2), torch.arange(2)],
    "d": torch.nn.Parameter(torch.ones(1)),
}


@pytest.mark.parametrize("reader", [name for name in READERS if name not in REFUSED])
def test_data_can_be_read(reader: str, tmp_path: Path) -> None:
    write, call = READERS[reader]
    content = tmp_path / "content"
    write(content, ARRAYS)
    read = script(
        tmp_path / "script.py",
        "import _pickle, joblib, numpy, pandas, pickle, torch",
        f"with open({str(content)!r}, 'rb') as file:",
        f"    found = {call}",
        "assert 'arange' not in repr(found) and 'array' in repr(found)",
    )
    assert run_script(read, [], CPU, trust_pickles=False) == 0


def test_checkpoints_are_read(tmp_path: Path) -> None:
    """With and without the restricted loader, in the new form and the old one."""
    state = torch.nn.BatchNorm1d(3).state_dict()
    torch.save(state, tmp_path / "new")
    torch.save(state, tmp_path / "old", _use_new_zipfile_serialization=False)
    read = script(
        tmp_path / "script.py",
        "import torch",
        f"for name in {[str(tmp_path / name) for name in ('new', 'old')]!r}:",
        "    for only in (True, False):",
        "        assert list(torch.load(name, weights_only=only))[0] == 'weight'",
    )
    assert run_script(read, [], CPU, trust_pickles=False) == 0


def test_loader_processes_send_what_they_like(tmp_path: Path) -> None:
    """Also an exception of the script's own, and a class that no list of names has."""
    read = script(
        tmp_path / "script.py",
        "import collections, decimal, torch",
        "Own = collections.namedtuple('Own', 'number image')",
        "class Items(torch.utils.data.Dataset):",
        "    def __len__(self): return 6",
        "    def __getitem__(self, index): return decimal.Decimal(index), torch.ones(2)",
        "batches = list(torch.utils.data.DataLoader(Items(), 2, num_workers=2, collate_fn=lambda batch: batch))",
        "assert [len(batch) for batch in batches] == [2, 2, 2] and type(batches[0][0][0]) is decimal.Decimal",
        "class Broken(Items):",
        "    def __getitem__(self, index): raise KeyError('lost')",
        "try: list(torch.utils.data.DataLoader(Broken(), 2, num_workers=1))",
        "except KeyError as error: assert 'lost' in str(error)",
        "else: raise SystemExit(1)",
    )
    assert run_script(read, [], CPU, trust_pickles=False) == 0


def test_loader_processes_run_no_pickle_either(tmp_path: Path) -> None:
    trap, content = tmp_path / "trap", tmp_path / "content"
    plain(content, Trap(trap))
    read = script(
        tmp_path / "script.py",
        "import pickle, torch",
        "class Items(torch.utils.data.Dataset):",
        "    def __len__(self): return 2",
        f"    def __getitem__(self, index): return pickle.loads(open({str(content)!r}, 'rb').read())",
        "list(torch.utils.data.DataLoader(Items(), 2, num_workers=1))",
    )
    with pytest.raises(Exception, match="mkdir"):
        run_script(read, [], CPU, trust_pickles=False)
    assert not trap.exists()


def test_the_guard_ends_with_the_script(tmp_path: Path) -> None:
    content = pickle.dumps(Trap(tmp_path / "trap"))
    load = pickle.load
    with only_data_is_unpickled(), only_data_is_unpickled():
        pass
    with pytest.raises(KeyError), only_data_is_unpickled():
        raise KeyError
    assert pickle.load is load
    pickle.loads(content)
    assert (tmp_path / "trap").is_dir()
    with only_data_is_unpickled(), pytest.raises(PluginError, match="mkdir"):
        pickle.loads(content)


# -------------------------------------------------------------------- the package's own score files

SPLITS = ("id/test", "csid/blur", "near/a", "far/b")
SCORES = {split: np.linspace(0, 1, 4, dtype=np.float32) for split in SPLITS}
ANSWERS = {f"{split}/{kind}": np.arange(4) for split in SPLITS for kind in ("predictions", "labels")}


def read_scores(path: Path, folder: Path) -> Path:
    return script(
        folder / "script.py",
        "import pickle",
        f"with open({str(path)!r}, 'rb') as file:",
        "    print(len(pickle.load(file)['id']['test'][1]))",
    )


def test_the_package_knows_the_score_files_that_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nci.pkl"
    path.write_bytes(scores_file(SCORES, ANSWERS))
    assert is_known(path)
    assert run_script(read_scores(path, tmp_path), [], CPU, trust_pickles=False) == 0
    assert capsys.readouterr().out == "4\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[: content.rindex(MARK) + len(MARK)],  # as earlier versions wrote them
        lambda content: b"x" + content,
        lambda _: b"",
    ],
)
def test_changed_score_files_are_not_known(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "nci.pkl"
    path.write_bytes(change(scores_file(SCORES, ANSWERS)))
    assert not is_known(path)
    with pytest.raises(PluginError, match=r"would unpickle '.*nci.pkl'"):
        run_script(read_scores(path, tmp_path), [], CPU, trust_pickles=False)


def test_files_of_earlier_versions_are_still_replaced() -> None:
    content = scores_file(SCORES, ANSWERS)
    assert is_ours(content)
    assert is_whole(content)
    assert is_ours(content[: content.rindex(MARK) + len(MARK)])
    assert not is_ours(content[:-1])


def test_a_forged_mark_runs_nothing(tmp_path: Path) -> None:
    """Anyone can write the mark and the hash; that opens the file, and what it names is looked at all the same."""
    from nci_plugin.files import digest

    trap, path = tmp_path / "trap", tmp_path / "nci.pkl"
    content = pickle.dumps(Trap(trap))
    path.write_bytes(content + MARK + digest(content).encode())
    assert is_known(path)
    with pytest.raises(PluginError, match="mkdir"):
        run_script(read_scores(path, tmp_path), [], CPU, trust_pickles=False)
    assert not trap.exists()


def test_a_torch_archive_with_code_is_refused(tmp_path: Path) -> None:
    """The pickle is a member of a zip file."""
    path = tmp_path / "net.ckpt"
    torch.save({"weight": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            changed = pickle.dumps(Trap(tmp_path / "trap")) if name.endswith("data.pkl") else content
            archive.writestr(name, changed)
    read = script(tmp_path / "script.py", "import torch", f"torch.load({str(path)!r}, weights_only=False)")
    with pytest.raises(PluginError, match="mkdir"):
        run_script(read, [], CPU, trust_pickles=False)
    assert not (tmp_path / "trap").exists()
