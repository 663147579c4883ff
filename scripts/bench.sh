#!/usr/bin/env bash
# Measures the plugin against what is used today; sets up the Python environment first (environment.sh).
set -euo pipefail

case ${1-} in
-h | --help)
    cat <<'USAGE'
usage: bash scripts/bench.sh [--quick] [--device cuda] [--output DIR] [--only SCRIPT...]

Runs every measuring script of scripts/bench, prints one table of ratios and numbers, and writes DIR/bench.json with the
machine and the date (default of DIR: results/bench). Runs in the active virtualenv or conda environment, else in .venv,
and first installs there what is missing. OpenOOD's evaluator is measured too if there is a checkout at $OPENOOD_ROOT
(default: ~/OpenOOD) that imports in that environment or in .venv-openood, which "scripts/test.sh --openood" makes.
  --quick   small sizes: does all of it work?
  --device  cuda also makes the sizes those for a GPU: 110,000 synthetic 32x32 images, 30,000 of 256x256 (JPEG)
  --only    some of the scripts, e.g. scoring.py memory.py
All options: python scripts/bench/all_parts.py --help; of one script: python scripts/bench/scoring.py --help
USAGE
    exit 0
    ;;
esac

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
[ -z "$copied" ] || die "the measuring scripts are in nci_plugin's own repository: run scripts/bench.sh there."
# shellcheck disable=SC2119
prepare_environment
exec "$python" scripts/bench/all_parts.py "$@"
