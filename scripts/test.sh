#!/usr/bin/env bash
# Runs the linters and the tests, up to the first that fails; sets up the Python environment first (environment.sh).
set -euo pipefail

oldest=
openood=
selection=(-m "not slow")
arguments=()
for argument in "$@"; do
    case $argument in
    --oldest) oldest=yes ;;
    --openood) openood=yes ;;
    --slow) selection=() ;;
    -h | --help)
        cat <<'USAGE'
usage: bash scripts/test.sh [--oldest | --openood] [--slow] [pytest arguments...]

Runs ruff, mypy, import-linter and pytest in the active virtualenv or conda environment, else in .venv; pytest as on a
stranger's machine, with an empty home directory and without OPENOOD_ROOT. Then, if there is an OpenOOD checkout at
$OPENOOD_ROOT (default: ~/OpenOOD) and there are no pytest arguments, runs the tests against it (tests/openood): in the
first environment if OpenOOD imports there, else in .venv-openood.
  --oldest   only pytest, in .venv-oldest with the oldest supported versions (scripts/oldest-constraints.txt)
  --openood  only the tests against OpenOOD, in .venv-openood
  --slow     with the tests marked slow
USAGE
        exit 0
        ;;
    *) arguments+=("$argument") ;;
    esac
done

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
[ -z "$copied" ] || die "the tests are in nci_plugin's own repository: run scripts/test.sh there."
[ -z "$oldest" ] || [ -z "$openood" ] || die "--oldest and --openood need different environments: give one of them."
openood_root=${OPENOOD_ROOT:-${HOME-}/OpenOOD}

step() {
    say "== $1"
    shift
    "$@"
}

# run_pytest TITLE VARIABLE=VALUE... -- [OPTION...]
# Two workers of one thread each: the threads of more would wait for one another, which takes longer than these tests.
run_pytest() {
    local title=$1 variables=()
    shift
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    step "$title" env "${variables[@]}" OMP_NUM_THREADS=1 "$python" -m pytest -n 2 --dist loadfile "${@:2}" \
        ${selection[@]+"${selection[@]}"} ${arguments[@]+"${arguments[@]}"}
}

# With nothing in the home directory, for pytest alone: no test may depend on what lies there.
test_as_stranger() {
    local home status=0
    home=$(mktemp -d "${TMPDIR:-/tmp}/nci-home.XXXXXX")
    run_pytest pytest -u OPENOOD_ROOT "HOME=$home" -- || status=$?
    rm -rf -- "${home:?}"
    return $status
}

has_openood() { [ -f "$openood_root/openood/evaluation_api/evaluator.py" ]; }

imports_openood() { PYTHONPATH=$openood_root "$python" -c 'import openood.evaluation_api' >/dev/null 2>&1; }

test_against_openood() {
    run_pytest "pytest against OpenOOD" "OPENOOD_ROOT=$openood_root" -- -o testpaths=tests/openood
}

if [ -n "$oldest" ]; then
    prepare_oldest_environment test
    say "oldest versions: only pytest runs; ruff, mypy and lint-imports are skipped"
    test_as_stranger
elif [ -n "$openood" ]; then
    has_openood || die "no OpenOOD checkout at $openood_root: clone OpenOOD there, or set OPENOOD_ROOT."
    prepare_openood_environment test
    test_against_openood
else
    prepare_environment test
    step "ruff check" "$python" -m ruff check .
    step mypy "$python" -m mypy
    if [ -e .importlinter ]; then
        step lint-imports "$python" -c 'from importlinter.cli import lint_imports_command as run; run()'
    fi
    test_as_stranger
    if ! has_openood; then
        say "tests against OpenOOD skipped: no OpenOOD checkout at $openood_root (set OPENOOD_ROOT)"
    elif [ ${#arguments[@]} -ne 0 ]; then
        say "tests against OpenOOD skipped: they take pytest arguments only with --openood"
    else
        imports_openood || prepare_openood_environment test
        test_against_openood
    fi
fi
