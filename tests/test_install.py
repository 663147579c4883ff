"""Copying the plugin into a checkout of OpenOOD, and out of it again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nci_plugin import installation
from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.installation import MANIFEST, OPENOODS_OWN, SCRIPTS

ROOT = Path(__file__).resolve().parent.parent
OWN_YAML = "configs/postprocessors/nci.yml"


def state(root: Path) -> dict[str, str | None]:
    """SHA-256 of every file, None of every directory."""
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
    }


@pytest.fixture
def openood(tmp_path: Path) -> Path:
    """What is seen of a checkout of OpenOOD: its own files in directories that ours go into, and an empty one."""
    root = tmp_path / "OpenOOD"
    for name in ("openood/evaluation_api/evaluator.py", OWN_YAML, "scripts/eval_ood.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"OpenOOD's {name}\n", encoding="utf-8")
    (root / "scripts" / "ood").mkdir()
    return root


@pytest.fixture
def install(openood: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*options: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["install", "--into", str(openood), *options])
        captured = capfd.readouterr()
        assert len(captured.err.splitlines()) == (code == 2)
        return code, captured.out, captured.err

    return run


Install = Callable[..., tuple[int, str, str]]


def test_round_trip_leaves_the_tree_as_it_was(openood: Path, install: Install) -> None:
    before = state(openood)
    code, out, _ = install()
    assert code == 0
    installed = state(openood)
    assert {name: installed[name] for name in before} == before
    assert f"left alone, OpenOOD's own: {', '.join(f'configs/postprocessors/{n}.yml' for n in OPENOODS_OWN)}" in out
    for name in ("configs/postprocessors/neco.yml", *(f"scripts/{name}" for name in SCRIPTS)):
        assert (openood / name).read_bytes() == (ROOT / name).read_bytes()
    for file in (ROOT / "nci_plugin").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and file.name != "py.typed":
            assert (openood / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    for file in (ROOT / "configs").rglob("*.yml"):
        assert (openood / "nci_plugin" / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    again = install()
    assert again[0] == 0
    assert " 0 files written" in again[1]
    assert state(openood) == installed
    assert install("--remove")[0] == 0
    assert state(openood) == before


def test_the_copy_runs_and_takes_itself_away(openood: Path) -> None:
    """In the checkout, the copy is what ``python -m nci_plugin`` means; the bytecode that it leaves goes too."""
    before = state(openood)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPENOOD_ROOT")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(*arguments: str, path: str = "") -> str:
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=openood,
            env={**environment, **({"PYTHONPATH": path} if path else {})},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout

    run("-c", "from nci_plugin.cli.main import main; main(['install', '--into', '.'])", path=str(ROOT))
    assert run("-c", "import nci_plugin; print(nci_plugin.__file__)").startswith(str(openood))
    assert "valid benchmark" in run("-m", "nci_plugin", "validate", "cifar10")
    assert list(openood.rglob("*.pyc"))
    assert " 0 files written" in run("-m", "nci_plugin", "install", "--into", ".")
    run("-m", "nci_plugin", "install", "--into", ".", "--remove")
    assert state(openood) == before


def test_from_an_installed_package(openood: Path, install: Install, tmp_path: Path) -> None:
    """There the YAML files and scripts are inside the package; what is copied is the same."""
    assert install()[0] == 0
    expected = state(openood)
    assert install("--remove")[0] == 0
    site = tmp_path / "site-packages"
    ignored = shutil.ignore_patterns("__pycache__", "bench", "test.sh")
    shutil.copytree(ROOT / "nci_plugin", site / "nci_plugin", ignore=ignored)
    for name in ("configs", "scripts"):
        shutil.copytree(ROOT / name, site / "nci_plugin" / name, ignore=ignored)
    subprocess.run(
        [sys.executable, "-m", "nci_plugin", "install", "--into", str(openood)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
        timeout=300,
    )
    assert state(openood) == expected


def test_dry_run(openood: Path, install: Install) -> None:
    before = state(openood)
    code, out, _ = install("--dry-run")
    assert code == 0
    assert "would write: nci_plugin/cli/install.py" in out.splitlines()
    assert state(openood) == before
    install()
    installed = state(openood)
    assert "would remove: scripts/eval_nci.sh" in install("--remove", "--dry-run")[1].splitlines()
    assert state(openood) == installed


@pytest.mark.parametrize("name", ["scripts/eval_nci.sh", "configs/postprocessors/neco.yml", "nci_plugin/api.py"])
def test_a_file_of_the_users_is_not_overwritten(openood: Path, install: Install, name: str) -> None:
    (openood / name).parent.mkdir(exist_ok=True)
    (openood / name).write_text("mine")
    before = state(openood)
    code, _, err = install()
    assert code == 2
    assert f"1 files there are not ours or were changed ({name})" in err
    assert "--force" in err
    assert state(openood) == before
    assert install("--force")[0] == 0
    assert (openood / name).read_bytes() == (ROOT / name).read_bytes()


def test_a_copy_made_by_hand_is_taken_over(openood: Path, install: Install) -> None:
    shutil.copytree(ROOT / "nci_plugin", openood / "nci_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    assert install()[0] == 0
    assert install("--remove")[0] == 0
    assert not [name for name in state(openood) if name.endswith(".py") and name.startswith("nci_plugin")]


def test_a_changed_file_stays(openood: Path, install: Install) -> None:
    install()
    changed = openood / "configs/postprocessors/neco.yml"
    changed.write_text("mine")
    assert install()[0] == 2  # an update would overwrite it
    code, out, _ = install("--remove")
    assert code == 0
    assert "left alone, changed since it was installed (--force removes it): configs/postprocessors/neco.yml" in out
    assert changed.read_text() == "mine"
    assert [path.name for path in (openood / "nci_plugin").iterdir()] == ["installed.json"]  # it names what was left


@pytest.mark.parametrize("first", [[], ["--remove"]])
def test_a_changed_file_goes_by_force(openood: Path, install: Install, first: list[str]) -> None:
    """At once, and after a removal that left it."""
    before = state(openood)
    install()
    (openood / "configs/postprocessors/neco.yml").write_text("mine")
    (openood / "nci_plugin/api.py").unlink()
    if first:
        assert install(*first)[0] == 0
    assert install("--remove", "--force")[0] == 0
    assert state(openood) == before


def test_a_changed_file_that_ships_no_more_is_counted_as_left(
    openood: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    (openood / "configs/postprocessors/neco.yml").write_text("mine")
    contents = installation._contents()
    del contents["configs/postprocessors/neco.yml"]
    monkeypatch.setattr(installation, "_contents", lambda: contents)
    code, out, _ = install()
    assert (code, f"0 files written, {len(contents)} were there already" in out) == (0, True)
    assert install("--force")[0] == 0
    assert not (openood / "configs/postprocessors/neco.yml").exists()


def test_the_users_files_in_our_directories_stay(openood: Path, install: Install) -> None:
    install()
    mine = openood / "nci_plugin/detectors/mine.py"
    mine.write_text("mine")
    assert install("--remove")[0] == 0
    assert mine.read_text() == "mine"
    assert [path for path in (openood / "nci_plugin").rglob("*") if path.is_file()] == [mine]


def test_update(openood: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version changes files, brings some and has lost others."""
    before = state(openood)
    now = installation._contents()
    older = {**now, "nci_plugin/api.py": b"older", "nci_plugin/gone/gone.py": b"gone"}
    del older["nci_plugin/files.py"]
    monkeypatch.setattr(installation, "_contents", lambda: older)
    install()
    monkeypatch.setattr(installation, "_contents", lambda: now)
    code, out, _ = install()
    assert code == 0
    assert " 2 files written" in out
    assert not (openood / "nci_plugin/gone").exists()
    assert (openood / "nci_plugin/api.py").read_bytes() == now["nci_plugin/api.py"]
    assert set(json.loads((openood / MANIFEST).read_text())["files"]) == set(now)
    install("--remove")
    assert state(openood) == before


@pytest.mark.parametrize("option", ["install", "remove"])
def test_no_checkout(tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str) -> None:
    (tmp_path / "some").mkdir()
    for place in ("some", "gone"):
        command = ["install", "--into", str(tmp_path / place), *["--remove"] * (option == "remove")]
        assert main(command) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "is no checkout of OpenOOD v1.5" in line
    assert state(tmp_path) == {"some": None}


def test_nothing_to_remove(openood: Path, install: Install) -> None:
    before = state(openood)
    assert "nothing was installed there" in install("--remove")[2]
    assert state(openood) == before


def test_read_only_directory(openood: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(openood)

    def refuse(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(installation.tempfile, "TemporaryFile", refuse)
    assert "cannot write there (Read-only file system); nothing was changed" in install()[2]
    assert state(openood) == before


@pytest.mark.parametrize("written", [0, 1, 20])
@pytest.mark.parametrize("update", [False, True])
def test_full_disk(
    openood: Path, install: Install, monkeypatch: pytest.MonkeyPatch, written: int, update: bool
) -> None:
    """What was written until then is undone, files that an update had overwritten too."""
    if update:
        now = installation._contents()
        monkeypatch.setattr(installation, "_contents", lambda: {name: text + b"#" for name, text in now.items()})
        install()
        monkeypatch.setattr(installation, "_contents", lambda: now)
    before = state(openood)
    write, count = installation.write_atomically, [0]

    def fail(path: Path, data: bytes | str, durable: bool = True) -> None:
        count[0] += 1
        if count[0] == written + 1:
            raise PluginError(f"cannot write '{path}': No space left on device")
        write(path, data, durable)

    monkeypatch.setattr(installation, "write_atomically", fail)
    assert "No space left" in install()[2]
    assert state(openood) == before


@pytest.mark.parametrize("update", [False, True], ids=["first", "update"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 40, 41, 100, 101])
@pytest.mark.parametrize("then", ["install", "remove", "neither of ours"])
def test_kill_9(
    openood: Path, install: Install, monkeypatch: pytest.MonkeyPatch, update: bool, steps: int, then: str
) -> None:
    """Between and in the midst of the writes, as far as a killed process leaves files: again, or --remove, finishes."""
    before, now = state(openood), installation._contents()
    if update:
        older = {name: text + b"#" for name, text in now.items() if not name.endswith("nci.py")}
        monkeypatch.setattr(installation, "_contents", lambda: {**older, "nci_plugin/gone.py": b"gone"})
        install()
        monkeypatch.setattr(installation, "_contents", lambda: now)
    child = os.fork()
    if not child:
        left, replace = [steps], os.replace

        def count(source: Path, target: Path) -> None:
            if not left[0]:
                os._exit(9)  # a temporary file stays
            left[0] -= 1
            replace(source, target)

        os.replace = count  # type: ignore[assignment]
        with contextlib.suppress(BaseException):
            main(["install", "--into", str(openood)])
        os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path for path in openood.rglob("*.tmp")]
    if then == "neither of ours":
        mine = openood / f"nci_plugin/.mine.{'0' * 32}.tmp"
        mine.write_text("mine")
        changed = openood / "scripts/eval_nci.sh"
        changed.write_text("mine")
        assert "not ours or were changed" in install()[2]
        assert (mine.read_text(), changed.read_text()) == ("mine", "mine")
        return
    if then == "install" or (steps == 0 and not update):  # nothing was written yet, and nothing is known to remove
        assert install()[0] == 0
        assert not [path for path in openood.rglob("*.tmp")]
        assert "before" not in json.loads((openood / MANIFEST).read_text())
        assert {name: (openood / name).read_bytes() for name in now} == now
        assert not (openood / "nci_plugin/gone.py").exists()
    assert install("--remove")[0] == 0
    left_over = {name: content for name, content in state(openood).items() if name not in before}
    assert left_over == ({"nci_plugin": None} if steps == 0 and not update else {})
    assert {name: state(openood)[name] for name in before} == before


def test_a_link_is_not_followed(openood: Path, install: Install, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (openood / "nci_plugin").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in install()[2]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"files": {"../victim": "0"}, "directories": []}', "outside the checkout"),
        ('{"files": {"/victim": "0"}, "directories": []}', "outside the checkout"),
        ('{"files": {}, "directories": [".."]}', "outside the checkout"),
    ],
)
def test_bad_manifest(openood: Path, install: Install, manifest: str, message: str) -> None:
    (openood / MANIFEST).parent.mkdir()
    (openood / MANIFEST).write_text(manifest)
    (openood.parent / "victim").write_text("mine")
    for options in ((), ("--remove", "--force")):
        assert message in install(*options)[2]
    assert (openood.parent / "victim").read_text() == "mine"


@pytest.mark.parametrize("flags", [["--remove"], ["--remove", "--force"], ["--force"], []])
def test_nothing_outside_is_touched_through_a_link(openood: Path, tmp_path: Path, flags: list[str]) -> None:
    """A checkout from anywhere may hold a link to elsewhere, and a manifest that names files behind it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "notes.txt").write_text("secret")
    (openood / "docs").symlink_to(outside)
    record = {"docs/notes.txt": hashlib.sha256(b"secret").hexdigest()}
    (openood / MANIFEST).parent.mkdir(exist_ok=True)
    (openood / MANIFEST).write_text(json.dumps({"files": record, "directories": []}))
    assert main(["install", "--into", str(openood), *flags]) == 2
    assert (outside / "notes.txt").read_text() == "secret"


def test_nothing_is_written_through_a_link(openood: Path, tmp_path: Path) -> None:
    shutil.move(openood / "scripts", tmp_path / "elsewhere")
    (openood / "scripts").symlink_to(tmp_path / "elsewhere")
    before = state(tmp_path)
    assert main(["install", "--into", str(openood)]) == 2
    assert state(tmp_path) == before
