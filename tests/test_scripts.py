"""The shell scripts and the packaging, without the network: the interpreters here are stubs that record their calls."""

import ast
import configparser
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nci_plugin.installation import SCRIPTS

ROOT = Path(__file__).resolve().parent.parent
SHELL_SCRIPTS = [*sorted((ROOT / "scripts").rglob("*.sh")), ROOT / ".ci" / "run"]
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

# Stands for an environment's python: the calls go to $STUB/calls, and the files in $STUB say what it answers.
STUB_PYTHON = r"""#!/bin/bash
printf '%s\n' "$*" >>"$STUB/calls"
printf '%s\t%s\t%s\t%s\n' "$*" "$HOME" "${OPENOOD_ROOT-}" "$(ls -A "$HOME" | head -n 1)" >>"$STUB/environments"
case $* in
*version_info*) [ ! -e "$STUB/old" ] ;;
*"import ensurepip"*) [ ! -e "$STUB/no-venv" ] ;;
*"import torchvision"*) [ ! -e "$STUB/mismatch" ] ;;
*"import libmr"*) [ ! -e "$STUB/no-libmr" ] ;;
*"import openood"*) [ -e "$STUB/imports-openood" ] ;;
*missing_requirements.py*) cat "$STUB/missing" ;;
*"list --format=freeze"*) cat "$STUB/freeze" ;;
*"pip install"*)
    while [ $# -gt 0 ]; do
        [ "$1" != -c ] || cp "$2" "$STUB/constraints"
        shift
    done
    [ ! -e "$STUB/unsolvable" ]
    ;;
*"-m venv --clear"*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
*"-m nci_plugin"*) exit 7 ;;
*"-m mypy"*) [ ! -e "$STUB/type-error" ] ;;
esac
"""


def write_executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def entries(text):
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


class Sandbox:
    """A copy of the scripts, in a folder whose name has a space, and an environment whose python is the stub."""

    def __init__(self, folder):
        self.checkout = folder / "a checkout"
        self.stub = folder / "stub"
        self.active = folder / "an environment"
        self.openood = folder / "an OpenOOD"
        shutil.copytree(ROOT / "scripts", self.checkout / "scripts")
        shutil.copy(ROOT / "setup.cfg", self.checkout)
        self.stub.mkdir()
        write_executable(self.active / "bin" / "python", STUB_PYTHON)
        self.answer("missing")
        self.answer("freeze")

    def answer(self, name, text=""):
        (self.stub / name).write_text(text, encoding="utf-8")

    def run(self, script, *arguments, **variables):
        keep = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
        command = [BASH, str(self.checkout / "scripts" / script), *arguments]
        return subprocess.run(
            command,
            env={**keep, "STUB": str(self.stub), "OPENOOD_ROOT": str(self.openood), **variables},
            cwd=self.stub,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def make_openood(self):
        """An OpenOOD checkout to be found, and .venv-openood."""
        (self.openood / "openood" / "evaluation_api").mkdir(parents=True)
        (self.openood / "openood" / "evaluation_api" / "evaluator.py").touch()
        shutil.copytree(self.active, self.checkout / ".venv-openood")

    def run_active(self, script, *arguments):
        return self.run(script, *arguments, VIRTUAL_ENV=str(self.active))

    def calls(self, containing=""):
        record = self.stub / "calls"
        return [line for line in record.read_text().splitlines() if containing in line] if record.exists() else []


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


def assert_one_line_error(result, *parts):
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.splitlines()[-1] == line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
    assert subprocess.run([BASH, "-n", str(script)], stdin=subprocess.DEVNULL).returncode == 0


def test_ci_run_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("script", ["eval_nci.sh", "test.sh", "bench.sh", "study/dynamics/digits.sh"])
def test_help_sets_nothing_up(sandbox, script):
    result = sandbox.run_active(script, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: bash scripts/" + script)
    assert sandbox.calls() == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "eval"),
        (["cifar10"], "eval cifar10"),
        (["cifar10", "--seed", "1"], "eval cifar10 --seed 1"),
        (["--seed", "1"], "eval --seed 1"),
        (["", "--seed", "1"], "eval --seed 1"),
    ],
)
def test_eval_installs_nothing_when_all_is_there(sandbox, arguments, expected):
    result = sandbox.run_active("eval_nci.sh", *arguments)
    assert result.returncode == 7  # the exit status of the evaluation
    assert sandbox.calls("-m nci_plugin") == ["-m nci_plugin " + expected]
    assert sandbox.calls("pip") == []


def test_conda_environment_is_used(sandbox):
    result = sandbox.run("eval_nci.sh", CONDA_PREFIX=str(sandbox.active))
    assert result.returncode == 7
    assert sandbox.calls("-m nci_plugin") == ["-m nci_plugin eval"]


def test_missing_packages_are_installed_under_constraints(sandbox):
    sandbox.answer("missing", "missing scipy>=1.10.0\nunlinked nci_plugin (not installed from this checkout)\n")
    freeze = ["numpy==1.26.4", "torch==2.13.0+cpu", "nci_plugin==0.0.9", "-e git+somewhere#egg=x", "y @ file:///y", "z"]
    sandbox.answer("freeze", "\n".join(freeze) + "\n")
    result = sandbox.run_active("eval_nci.sh")
    assert result.returncode == 7
    assert (sandbox.stub / "constraints").read_text().split() == ["numpy==1.26.4", "torch==2.13.0+cpu"]
    (install,) = sandbox.calls("pip install")
    assert install.endswith(" -e .")
    assert "installing into" in result.stderr
    assert "scipy>=1.10.0 nci_plugin" in result.stderr
    assert result.stdout == ""


def test_complete_environment_is_only_linked(sandbox):
    sandbox.answer("missing", "unlinked nci_plugin (not installed from this checkout)\n")
    sandbox.answer("unsolvable")
    result = sandbox.run_active("eval_nci.sh")
    assert result.returncode == 7  # runs without the link
    assert "note: " in result.stderr
    (install,) = sandbox.calls("pip install")
    assert install.endswith(" --quiet --no-deps --no-build-isolation -e .")


def test_no_solution_is_one_line(sandbox):
    sandbox.answer("missing", "missing scipy>=1.10.0\n")
    sandbox.answer("unsolvable")
    assert_one_line_error(sandbox.run_active("eval_nci.sh"), "already there", "makes a separate .venv")
    assert sandbox.calls("-m nci_plugin") == []


def test_unsuited_package_of_an_active_environment_is_left_alone(sandbox):
    sandbox.answer("missing", "unsuited scipy>=1.10.0 (1.9.0 is installed)\n")
    assert_one_line_error(sandbox.run_active("eval_nci.sh"), "scipy>=1.10.0 (1.9.0 is installed)")
    assert sandbox.calls("pip install") == []


def test_torchvision_that_does_not_load_is_one_line_and_goes_again(sandbox):
    sandbox.answer("missing", "missing torchvision>=0.16.0\n")
    sandbox.answer("freeze", "torch==2.13.0+cpu\ntorchvision==0.28.0\n")
    sandbox.answer("mismatch")
    assert_one_line_error(sandbox.run_active("eval_nci.sh"), "(torch==2.13.0+cpu torchvision==0.28.0)", "same version")
    assert len(sandbox.calls("pip uninstall -y torchvision")) == 1


def test_active_environment_with_an_old_python_is_one_line(sandbox):
    sandbox.answer("old")
    assert_one_line_error(sandbox.run_active("eval_nci.sh"), "no Python >= 3.9")


@pytest.mark.parametrize(
    ("answer", "message"), [("old", "no Python >= 3.9"), ("no-venv", "python3 has no venv or ensurepip module")]
)
def test_no_usable_python_is_one_line(sandbox, answer, message):
    sandbox.answer(answer)
    commands = sandbox.stub / "bin"
    for version in ["3.13", "3.12", "3.11", "3.10", "3.9", "3"]:
        write_executable(commands / f"python{version}", STUB_PYTHON)
    result = sandbox.run("eval_nci.sh", PATH=f"{commands}{os.pathsep}{os.environ['PATH']}")
    assert_one_line_error(result, message)
    assert not (sandbox.checkout / ".venv").exists()


def test_own_environment_is_not_touched_when_all_is_there(sandbox):
    shutil.copytree(sandbox.active, sandbox.checkout / ".venv")
    result = sandbox.run("eval_nci.sh")
    assert result.returncode == 7
    assert sandbox.calls("pip") == []


def test_interrupted_installation_starts_anew(sandbox):
    shutil.copytree(sandbox.active, sandbox.checkout / ".venv")
    (sandbox.checkout / ".venv" / ".nci-installing").touch()
    commands = sandbox.stub / "bin"
    write_executable(commands / "python3", STUB_PYTHON)
    result = sandbox.run("eval_nci.sh", PATH=f"{commands}{os.pathsep}{os.environ['PATH']}")
    assert result.returncode == 7
    assert len(sandbox.calls("-m venv --clear")) == 1


def test_test_script_runs_the_steps_in_order(sandbox):
    (sandbox.checkout / ".importlinter").touch()
    result = sandbox.run_active("test.sh", "-k", "a b")
    assert result.returncode == 0
    steps = [line for line in result.stderr.splitlines() if line.startswith("== ")]
    assert steps == ["== ruff check", "== mypy", "== lint-imports", "== pytest"]
    assert sandbox.calls("missing_requirements") == ["scripts/missing_requirements.py test"]
    assert sandbox.calls("-m pytest") == ["-m pytest -n 2 --dist loadfile -m not slow -k a b"]


def test_test_script_stops_at_the_first_failure(sandbox):
    sandbox.answer("type-error")
    assert sandbox.run_active("test.sh").returncode == 1
    assert sandbox.calls("-m pytest") == []


def test_test_script_with_slow_tests(sandbox):
    assert sandbox.run_active("test.sh", "--slow").returncode == 0
    assert sandbox.calls("-m pytest") == ["-m pytest -n 2 --dist loadfile"]


def test_oldest_runs_only_pytest_in_its_own_environment(sandbox):
    shutil.copytree(sandbox.active, sandbox.checkout / ".venv-oldest")
    sandbox.answer("missing", "missing scipy>=1.10.0\n")
    result = sandbox.run_active("test.sh", "--oldest")
    assert result.returncode == 0
    assert "skipped" in result.stderr
    (install,) = sandbox.calls("pip install")
    assert install.endswith(" -c scripts/oldest-constraints.txt -e .[test]")
    assert sandbox.calls("ruff") == []
    assert len(sandbox.calls("-m pytest")) == 1


OPENOOD_RUN = "-m pytest -n 2 --dist loadfile -o testpaths=tests/openood"


def test_openood_is_tested_last_and_in_its_own_environment(sandbox):
    sandbox.make_openood()
    result = sandbox.run_active("test.sh")
    assert result.returncode == 0
    assert sandbox.calls("missing_requirements") == [
        "scripts/missing_requirements.py test",
        "scripts/missing_requirements.py test openood",
    ]
    assert sandbox.calls("-m pytest") == ["-m pytest -n 2 --dist loadfile -m not slow", OPENOOD_RUN + " -m not slow"]
    assert sandbox.calls("pip") == []


def test_openood_is_tested_once_where_it_imports(sandbox):
    sandbox.make_openood()
    sandbox.answer("imports-openood")
    assert sandbox.run_active("test.sh").returncode == 0
    assert sandbox.calls("-m pytest") == ["-m pytest -n 2 --dist loadfile -m not slow", OPENOOD_RUN + " -m not slow"]
    assert sandbox.calls("missing_requirements") == ["scripts/missing_requirements.py test"]  # and no .venv-openood


def test_pytest_runs_as_on_a_strangers_machine(sandbox):
    """An empty home directory and no OPENOOD_ROOT, for the tests alone and not for the installation."""
    sandbox.make_openood()
    own = str(sandbox.stub / "home")
    Path(own, "something").mkdir(parents=True)
    assert sandbox.run("test.sh", VIRTUAL_ENV=str(sandbox.active), HOME=own).returncode == 0
    calls = [line.split("\t") for line in (sandbox.stub / "environments").read_text().splitlines()]
    (_, home, root, first_file), (_, *against) = [call for call in calls if "-m pytest" in call[0]]
    assert (root, first_file) == ("", "")
    assert home != own
    assert not Path(home).exists()  # taken away afterwards
    assert against[:2] == [own, str(sandbox.openood)]
    assert {call[1] for call in calls if "-m pytest" not in call[0]} == {own}


def test_without_a_checkout_openood_is_not_tested(sandbox):
    result = sandbox.run_active("test.sh")
    assert result.returncode == 0
    assert result.stderr.splitlines()[-1].startswith(
        f"tests against OpenOOD skipped: no OpenOOD checkout at {sandbox.openood}"
    )
    assert len(sandbox.calls("-m pytest")) == 1
    assert_one_line_error(sandbox.run_active("test.sh", "--openood"), str(sandbox.openood), "OPENOOD_ROOT")
    assert len(sandbox.calls("-m pytest")) == 1


def test_openood_checkout_in_the_home_directory_is_found(sandbox):
    sandbox.make_openood()
    home = sandbox.stub / "home"
    home.mkdir()
    sandbox.openood.rename(home / "OpenOOD")
    assert sandbox.run("test.sh", "--openood", OPENOOD_ROOT="", HOME=str(home)).returncode == 0
    assert sandbox.calls("-m pytest") == [OPENOOD_RUN + " -m not slow"]


def test_pytest_arguments_are_for_one_run(sandbox):
    sandbox.make_openood()
    result = sandbox.run_active("test.sh", "-k", "a b")
    assert result.returncode == 0
    assert "tests against OpenOOD skipped" in result.stderr.splitlines()[-1]
    assert len(sandbox.calls("-m pytest")) == 1


def test_only_openood(sandbox):
    sandbox.make_openood()
    result = sandbox.run_active("test.sh", "--openood", "--slow", "-k", "a b")
    assert result.returncode == 0
    assert sandbox.calls("-m pytest") == [OPENOOD_RUN + " -k a b"]
    assert sandbox.calls("ruff") == sandbox.calls("mypy") == []


def test_oldest_and_openood_exclude_each_other(sandbox):
    assert_one_line_error(sandbox.run_active("test.sh", "--oldest", "--openood"), "--oldest and --openood")
    assert sandbox.calls() == []


def test_libmr_is_built_after_the_rest(sandbox):
    sandbox.make_openood()
    sandbox.answer("missing", "missing imgaug>=0.4.0\n")
    sandbox.answer("no-libmr")
    assert sandbox.run_active("test.sh", "--openood").returncode == 0
    extras, libmr = sandbox.calls("pip install")
    assert extras.endswith(" -e .[test,openood]")
    assert libmr.endswith(" --no-build-isolation libmr")


def test_libmr_that_does_not_build_is_one_line(sandbox):
    sandbox.make_openood()
    sandbox.answer("no-libmr")
    sandbox.answer("unsolvable")
    assert_one_line_error(sandbox.run_active("test.sh", "--openood"), "could not build libmr")
    assert sandbox.calls("-m pytest") == []


def missing_requirements(folder, install_requires):
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    text = (
        f"[metadata]\nname = nci_plugin\n[options]\ninstall_requires =\n    {install_requires}\n"
        "[options.extras_require]\ntest = nci-no-such-thing\n"
    )
    (folder / "setup.cfg").write_text(text, encoding="utf-8")
    command = [sys.executable, str(folder / "scripts" / "missing_requirements.py")]
    outputs = [
        subprocess.run([*command, *extra], capture_output=True, text=True, check=True) for extra in ([], ["test"])
    ]
    return [output.stdout.splitlines()[:-1] for output in outputs], outputs[0].stdout.splitlines()[-1]


def test_requirement_reader(tmp_path):
    (plain, with_extra), last = missing_requirements(tmp_path / "satisfied", "pytest>=1.0")
    assert plain == []
    assert with_extra == ["missing nci-no-such-thing"]
    assert last.startswith("unlinked nci_plugin")
    (plain, _), _ = missing_requirements(tmp_path / "old", "pytest>=999")
    assert plain == [f"unsuited pytest>=999 ({pytest.__version__} is installed)"]
    (plain, _), _ = missing_requirements(tmp_path / "new", "pytest>=1.0\n    pytest<2")
    assert plain == [f"unsuited pytest<2 ({pytest.__version__} is installed)"]


def test_package_list_is_complete():
    source = [path.parent for path in (ROOT / "nci_plugin").rglob("__init__.py")]
    configs = [ROOT / "configs", *(path for path in (ROOT / "configs").rglob("*") if path.is_dir())]
    expected = {".".join(path.relative_to(ROOT).parts) for path in source}
    expected |= {".".join(("nci_plugin", *path.relative_to(ROOT).parts)) for path in configs}
    listed = entries(setup_cfg()["options"]["packages"])
    assert len(listed) == len(set(listed))
    assert set(listed) == expected | {"nci_plugin.scripts"}


def test_every_config_file_ships():
    patterns = dict(setup_cfg()["options.package_data"])
    files = [path for path in (ROOT / "configs").rglob("*") if path.is_file()]
    for path in files:
        package = ".".join(("nci_plugin", *path.relative_to(ROOT).parent.parts))
        assert any(path.match(pattern) for pattern in entries(patterns.get(package, ""))), path


def test_every_script_that_is_installed_ships():
    patterns = entries(setup_cfg()["options.package_data"]["nci_plugin.scripts"].replace(",", "\n"))
    assert {*patterns, "missing_requirements.py"} == set(SCRIPTS)  # modules of a package ship by themselves
    assert all((ROOT / "scripts" / name).is_file() for name in SCRIPTS)


def test_copied_scripts_install_requirements_and_not_the_checkout(sandbox):
    """In a checkout of OpenOOD; its own setup.cfg, where it has one, is another project's."""
    (sandbox.checkout / "setup.cfg").write_text("[metadata]\nname = openood\n", encoding="utf-8")
    sandbox.answer("missing", "missing scipy>=1.10.0\n")
    result = sandbox.run_active("eval_nci.sh", "digits")
    assert result.returncode == 7
    (install,) = sandbox.calls("pip install")
    bounds = " ".join(entries(setup_cfg()["options"]["install_requires"]))
    assert install.endswith(f" {bounds}")
    assert "-e" not in install.split()
    assert_one_line_error(sandbox.run_active("test.sh"), "in nci_plugin's own repository")


def test_copied_requirement_reader(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    command = [
        sys.executable,
        "-c",
        "import json, missing_requirements as m; print(json.dumps(m.requirements(None, [])))",
    ]
    result = subprocess.run(command, cwd=tmp_path / "scripts", capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == entries(setup_cfg()["options"]["install_requires"])
    command = [sys.executable, str(tmp_path / "scripts" / "missing_requirements.py")]
    assert "unlinked" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_oldest_python_is_stated_once_more_for_copies():
    text = (ROOT / "scripts" / "oldest-constraints.txt").read_text(encoding="utf-8")
    assert f"# Python {setup_cfg()['options']['python_requires'].replace('>=', '>= ')}" in text.splitlines()


def test_lower_bounds_are_the_oldest_tested_versions():
    bounds = {line.replace(">=", "==") for line in entries(setup_cfg()["options"]["install_requires"])}
    assert bounds == set(entries((ROOT / "scripts" / "oldest-constraints.txt").read_text(encoding="utf-8")))


def test_requirement_reader_runs_on_the_oldest_python():
    ast.parse((ROOT / "scripts" / "missing_requirements.py").read_text(encoding="utf-8"), feature_version=(3, 9))
