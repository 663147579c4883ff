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

Runs ruff, mypy, import-linter and pytest in the active virtualenv or conda environment, else in .venv. Then, if there
is an OpenOOD checkout at $OPENOOD_ROOT (default: ~/OpenOOD) and there are no pytest arguments, runs the tests against
it (tests/openood) in .venv-openood, unless OpenOOD imports in the first environment: there they have run already.
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
export OPENOOD_ROOT=${OPENOOD_ROOT:-${HOME-}/OpenOOD} # tests/openood/conftest.py reads it

step() {
    say "== $1"
    shift
    "$@"
}

# run_pytest TITLE [OPTION...]
run_pytest() {
    step "$1" "$python" -m pytest -n 2 --dist loadfile "${@:2}" \
        ${selection[@]+"${selection[@]}"} ${arguments[@]+"${arguments[@]}"}
}

has_openood() { [ -f "$OPENOOD_ROOT/openood/evaluation_api/evaluator.py" ]; }

imports_openood() { PYTHONPATH=$OPENOOD_ROOT "$python" -c 'import openood.evaluation_api' >/dev/null 2>&1; }

test_against_openood() {
    prepare_openood_environment test
    run_pytest "pytest against OpenOOD" -o testpaths=tests/openood
}

if [ -n "$oldest" ]; then
    prepare_oldest_environment test
    say "oldest versions: only pytest runs; ruff, mypy and lint-imports are skipped"
    run_pytest pytest
elif [ -n "$openood" ]; then
    has_openood || die "no OpenOOD checkout at $OPENOOD_ROOT: clone OpenOOD there, or set OPENOOD_ROOT."
    test_against_openood
else
    prepare_environment test
    step "ruff check" "$python" -m ruff check .
    step mypy "$python" -m mypy
    if [ -e .importlinter ]; then
        step lint-imports "$python" -c 'from importlinter.cli import lint_imports_command as run; run()'
    fi
    run_pytest pytest
    if ! has_openood; then
        say "tests against OpenOOD skipped: no OpenOOD checkout at $OPENOOD_ROOT (set OPENOOD_ROOT)"
    elif [ ${#arguments[@]} -ne 0 ]; then
        say "tests against OpenOOD skipped: they take pytest arguments only with --openood"
    elif ! imports_openood; then
        test_against_openood
    fi
fi
