#!/usr/bin/env bash
# Builds the documentation into docs/_build/html and runs the examples in docstrings; sets up the Python environment first.
set -euo pipefail

case ${1-} in
-h | --help)
    cat <<'USAGE'
usage: bash scripts/docs.sh

Runs the examples in the docstrings, then builds the documentation into docs/_build/html, in the active virtualenv or conda
environment, else in .venv. The tutorials run during the build. A warning is an error. Once the environment is complete,
nothing is downloaded.
USAGE
    exit 0
    ;;
esac

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
[ $# -eq 0 ] || die "scripts/docs.sh: takes no argument but --help, got '$1'."
[ -z "$copied" ] || die "the documentation is in nci_plugin's own repository: run scripts/docs.sh there."
prepare_environment docs
export PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH}
PATH=$(dirname -- "$python"):$PATH # the tutorials call nci-ood and python
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # their networks are small: on several threads they are slower

say "== examples in docstrings"
# What imports OpenOOD needs its checkout.
"$python" -m pytest -q -p no:cacheprovider --doctest-modules nci_plugin --ignore=nci_plugin/adapters/openood
say "== sphinx-build"
"$python" -m sphinx -b html -W --keep-going -E -q docs docs/_build/html
say "written to docs/_build/html/index.html"
