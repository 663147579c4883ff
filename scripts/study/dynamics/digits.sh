#!/usr/bin/env bash
# Runs the grid of small trainings and analyses it; sets up the Python environment first (environment.sh).
set -euo pipefail

case ${1-} in
-h | --help)
    cat <<'USAGE'
usage: bash scripts/study/dynamics/digits.sh [OUTPUT] [--quick] [--workers N] [--list]

Trains the grid of small networks (scripts/study/dynamics/grid.py) into OUTPUT (results/dynamics_digits), with --quick
a small part of it in minutes; then writes OUTPUT/findings.md (scripts/study/dynamics/findings.py), and "nci-ood dynamics"
of its runs into OUTPUT/report. Started again, it goes on where it was interrupted. Where NCI_PLUGIN_DATA names a
directory with CIFAR-10, a part of that is trained on too.
USAGE
    exit 0
    ;;
esac

output=results/dynamics_digits
case ${1-} in
-* | "") ;;
*)
    output=$1
    shift
    ;;
esac
# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../environment.sh"
# shellcheck disable=SC2119
prepare_environment
"$python" scripts/study/dynamics/grid.py "$output" "$@"
for argument in "$@"; do
    [ "$argument" != --list ] || exit 0
done
"$python" scripts/study/dynamics/findings.py "$output" >"$output/findings.md"
exec "$python" -m nci_plugin dynamics "$output/runs" --output "$output/report"
