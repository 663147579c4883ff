#!/usr/bin/env bash
# Measures what only a GPU can show, in under eight minutes; installs nothing from a network.
set -euo pipefail

case ${1-} in
-h | --help)
    cat <<'USAGE'
usage: bash scripts/bench/gpu.sh [--device cuda] [--output DIR] [--packs DIR] [--minutes M] [--quick]

Runs scripts/bench/gpu.py in the active Python ($PYTHON, default python3) and writes DIR/gpu.json (default of DIR:
results/bench). What that Python lacks is installed from the wheels in $WHEELS, if that names a directory, for
this run; what is still missing is said, and the parts that need it are skipped. OpenOOD is looked for at $OPENOOD_ROOT.
  --packs    images to train on, which scripts/bench/packing.py made; without them nothing is trained
  --minutes  after which nothing more begins (8), what is installed counted too
  --quick    small sizes: does all of it work? (--device cpu then needs no GPU)
USAGE
    exit 0
    ;;
esac

cd "$(dirname -- "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

if ! "$python" -c 'import torch' 2>/dev/null; then
    printf 'gpu.sh: %s has no torch; set PYTHON to one that has\n' "$python" >&2
    exit 2
fi
# What no part needs, since it only checks the code, is left out.
lacking() {
    "$python" scripts/missing_requirements.py test | grep -E '^(missing|unsuited) ' | cut -d ' ' -f 2- |
        grep -vE '^(ruff|mypy|import-linter|types-)' || true
}

if [ -d "${WHEELS-}" ]; then
    packages=$(mktemp -d "${TMPDIR:-/tmp}/nci-packages.XXXXXX")
    trap 'rm -rf -- "${packages:?}"' EXIT
    export PYTHONPATH=$packages:$PYTHONPATH
    lacking | while read -r requirement; do
        "$python" -m pip install --quiet --no-index --no-deps --find-links "$WHEELS" --target "$packages" \
            "${requirement%% (*}" || printf 'gpu.sh: no wheel for %s\n' "$requirement" >&2
    done
fi
lacking | sed 's/^/gpu.sh: lacks /' >&2

"$python" scripts/bench/gpu.py --spent "$SECONDS" "$@"
