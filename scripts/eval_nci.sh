#!/usr/bin/env bash
# Evaluates NCI on a benchmark; sets up the Python environment first (environment.sh).
set -euo pipefail

case ${1-} in
-h | --help)
    cat <<'USAGE'
usage: bash scripts/eval_nci.sh [BENCHMARK] [options...]

Evaluates NCI on BENCHMARK. The default is all: those of OpenOOD's benchmarks whose data and checkpoints are there; where
there are none, digits. Runs in the active virtualenv or conda environment, else in .venv, and first installs there
what is missing. Runs in the checkout: relative paths start there. The options are those of "nci-ood eval":
bash scripts/eval_nci.sh digits --help
USAGE
    exit 0
    ;;
esac

[ -n "${1-all}" ] || shift # an empty BENCHMARK is none
# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck disable=SC2119
prepare_environment
exec "$python" -m nci_plugin eval "$@"
