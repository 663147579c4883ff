#!/usr/bin/env bash
# Runs the linters and the tests, up to the first that fails; sets up the Python environment first (environment.sh).
set -euo pipefail

oldest=
selection=(-m "not slow")
arguments=()
for argument in "$@"; do
    case $argument in
    --oldest) oldest=yes ;;
    --slow) selection=() ;;
    -h | --help)
        cat <<'USAGE'
usage: bash scripts/test.sh [--oldest] [--slow] [pytest arguments...]

Runs ruff, mypy, import-linter and pytest in the active virtualenv or conda environment, else in .venv.
  --oldest  only pytest, in .venv-oldest with the oldest supported versions (scripts/oldest-constraints.txt)
  --slow    with the tests marked slow
USAGE
        exit 0
        ;;
    *) arguments+=("$argument") ;;
    esac
done

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

step() {
    say "== $1"
    shift
    "$@"
}

if [ -n "$oldest" ]; then
    prepare_oldest_environment test
    say "oldest versions: only pytest runs; ruff, mypy and lint-imports are skipped"
else
    prepare_environment test
    step "ruff check" "$python" -m ruff check .
    step mypy "$python" -m mypy
    if [ -e .importlinter ]; then
        step lint-imports "$python" -c 'from importlinter.cli import lint_imports_command as run; run()'
    fi
fi
step pytest "$python" -m pytest -n 2 --dist loadfile ${selection[@]+"${selection[@]}"} ${arguments[@]+"${arguments[@]}"}
