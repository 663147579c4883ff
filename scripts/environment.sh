# Sourced by eval_nci.sh, test.sh and docs.sh: changes into the checkout and finds or makes the Python environment.
#
#   prepare_environment [EXTRA...]         the active virtualenv or conda environment, else .venv
#   prepare_oldest_environment [EXTRA...]  .venv-oldest, with the versions of oldest-constraints.txt
#   prepare_openood_environment [EXTRA...] .venv-openood, in which OpenOOD imports too
#
# Each sets $python and installs what is missing: nothing, and without the network, when nothing is. In an active
# environment the packages already there keep their versions. A failure is one line on stderr and exit status 2.
# shellcheck shell=bash

checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd -- "$checkout" || exit 2
constraints_file=scripts/oldest-constraints.txt
# In a checkout of OpenOOD that nci_plugin was copied into there is no setup.cfg of ours: the constraints stand for it.
copied=
grep -q '^name *= *nci_plugin$' setup.cfg 2>/dev/null || copied=yes
minimum=$(sed -n 's/^# Python >= *//p' "$constraints_file")
export PIP_USER=0 # pip would otherwise fall back to the home directory where the environment is read-only

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 2
}

# Whether the interpreter $1 runs and is new enough.
supported() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] < tuple(map(int, sys.argv[1].split("."))))' "$minimum" \
        >/dev/null 2>&1
}

# Makes a virtual environment at $1, in place of what is there, with the first usable of the interpreters $2...
create_environment() {
    local target=$1 own=":$1/bin:" candidate found=
    shift
    PATH=":$PATH:" # without the environment itself, which may be active
    PATH=${PATH//"$own"/:}
    PATH=${PATH#:}
    PATH=${PATH%:}
    for candidate in "$@"; do
        supported "$candidate" || continue
        found=${found:-$candidate}
        "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue
        say "creating $target with $("$candidate" --version 2>&1)"
        rm -rf -- "${target:?}/bin" # first, so that a clearing that is interrupted is seen too
        "$candidate" -m venv --clear "$target" >&2 || die "$candidate could not create $target."
        return
    done
    [ -z "$found" ] || die "$found has no venv or ensurepip module: install it (Debian, Ubuntu: the package python3-venv)."
    die "no Python >= $minimum among $*: install one, or activate an environment that has it."
}

has_pip() { "$python" -m pip --version >/dev/null 2>&1; }

# Whether pip can make editable installs from a pyproject.toml.
recent_pip() {
    "$python" -c 'import pip, sys; sys.exit(int(pip.__version__.split(".")[0]) < 22)' >/dev/null 2>&1
}

list_missing() { "$python" scripts/missing_requirements.py ${extras[@]+"${extras[@]}"}; }

# pip install of the checkout in editable mode, with its requirements, the extras and the further arguments; where it was
# copied into OpenOOD's, of the requirements alone.
pip_install() {
    local wanted=.
    if [ -n "$copied" ]; then
        # shellcheck disable=SC2046
        "$python" -m pip install --disable-pip-version-check --no-input "$@" \
            $(sed -n 's/==/>=/p' "$constraints_file") >&2
        return
    fi
    [ ${#extras[@]} -eq 0 ] || wanted=".[$(IFS=, && printf '%s' "${extras[*]}")]"
    "$python" -m pip install --disable-pip-version-check --no-input "$@" -e "$wanted" >&2
}

# Installs only the checkout itself, for the command nci-ood; without the network where setuptools is there. All else
# works without it, so that a failure is only a note.
link_checkout() {
    local isolation=
    "$python" -c 'import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 71)' \
        >/dev/null 2>&1 && isolation=--no-build-isolation
    say "installing into $place: nci_plugin, as a link to this checkout"
    if ! { has_pip && recent_pip && pip_install --quiet --no-deps ${isolation:+"$isolation"}; }; then
        say "note: pip could not install nci_plugin into $place, so the command nci-ood is missing there"
    fi
}

announce() {
    local list size='up to a few hundred MB'
    list=$(printf '%s\n' "$missing" | sed -e 's/^[a-z]* //' -e 's/ (.*//' | tr '\n' ' ')
    case $missing in *'missing torch>='*) size='with its CUDA libraries torch is a download of 2 to 4 GB on Linux' ;; esac
    say "installing into $place: $list($size)"
}

check_torchvision() {
    "$python" -c 'import torchvision' >/dev/null 2>&1 && return
    local builds
    builds=$("$python" -m pip list --format=freeze 2>/dev/null | grep -E '^(torch|torchvision)==' | tr '\n' ' ') || true
    # A torchvision that was just added goes again, so that the next run finds and says the same.
    case $missing in *'missing torchvision>='*) "$python" -m pip uninstall -y torchvision >/dev/null 2>&1 || true ;; esac
    die "torchvision does not load (${builds% }): torch and torchvision must be builds of the same version, so install" \
        "the torchvision that belongs to this torch from where torch came from, or $remedy."
}

# Installs what is missing into an environment that is not ours; the packages there keep their versions.
extend_active() {
    remedy="deactivate the environment and run this again, which makes a separate .venv"
    [ -x "$python" ] || die "the active environment $place has no python: deactivate it and run this again."
    supported "$python" || die "the active environment $place has no Python >= $minimum: activate another one, or $remedy."
    missing=$(list_missing) || die "could not read what $place has installed: $remedy."
    case $missing in
    '') return ;;
    unlinked*)
        link_checkout
        return
        ;;
    esac
    local unsuited constraints status=0
    unsuited=$(printf '%s\n' "$missing" | sed -n 's/^unsuited //p' | tr '\n' ' ')
    [ -z "$unsuited" ] || die "$place has packages of other versions, and they are left as they are: ${unsuited% };" \
        "install these versions, or $remedy."
    has_pip || die "$place has no pip: run '$python -m ensurepip' in it, or $remedy."
    recent_pip || die "pip in $place is older than 22: run '$python -m pip install --upgrade pip', or $remedy."
    constraints=$(mktemp "${TMPDIR:-/tmp}/nci-constraints.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -f -- $(printf '%q' "$constraints")" EXIT
    "$python" -m pip --disable-pip-version-check list --format=freeze 2>/dev/null |
        grep -E '^[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+_-]*$' |
        grep -v -i -E '^nci[-_.]plugin==' >"$constraints" || true
    announce
    pip_install -c "$constraints" || status=$?
    rm -f -- "$constraints"
    trap - EXIT
    [ $status -eq 0 ] || die "pip found no way to add what is missing to $place next to the versions already there" \
        "(its message is above; is the index reachable?): $remedy."
    check_torchvision
}

# Makes or completes an environment of this checkout: extend_own CANDIDATE... [-- PIP_ARGUMENT...]
extend_own() {
    local candidates=() marker="$place/.nci-installing" status=0
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        candidates+=("$1")
        shift
    done
    [ $# -eq 0 ] || shift
    python="$place/bin/python"
    remedy="delete $place and run this again"
    # The marker is there when an installation was interrupted: what it left behind cannot be trusted.
    if [ -e "$marker" ] || ! "$python" -c '' >/dev/null 2>&1; then
        create_environment "$place" "${candidates[@]}"
    fi
    supported "$python" || die "$place has no Python >= $minimum: $remedy."
    missing=$(list_missing) || die "could not read what $place has installed: $remedy."
    case $missing in
    '') return ;;
    unlinked*)
        link_checkout
        return
        ;;
    esac
    if ! has_pip; then # an interrupted creation
        "$python" -m ensurepip --upgrade --default-pip >/dev/null 2>&1 || true
        has_pip || create_environment "$place" "${candidates[@]}"
        missing=$(list_missing)
    fi
    announce
    : >"$marker"
    trap 'exit 130' INT
    recent_pip || "$python" -m pip install --disable-pip-version-check --upgrade pip >&2 || status=$?
    [ $status -ne 0 ] || pip_install "$@" || status=$?
    trap - INT
    rm -f -- "$marker"
    [ $status -eq 0 ] || die "pip could not install into $place (its message is above): is the index reachable?"
    check_torchvision
}

# shellcheck disable=SC2120
prepare_environment() {
    extras=("$@")
    place=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    python="$place/bin/python"
    if [ -z "$place" ] || [ "$place" = "$checkout/.venv" ] || [ "$place" -ef "$checkout/.venv" ]; then
        place="$checkout/.venv"
        extend_own python3 python3.13 python3.12 python3.11 python3.10 python3.9
    else
        extend_active
    fi
}

prepare_oldest_environment() {
    extras=("$@")
    place="$checkout/.venv-oldest"
    extend_own python3.9 python3.10 python3.11 python3.12 python3.13 python3 -- -c "$constraints_file"
}

prepare_openood_environment() {
    extras=("$@" openood)
    place="$checkout/.venv-openood"
    extend_own python3.11 python3.12 python3.10 python3.9 python3 # numpy<2 has no wheels for Python 3.13
    "$python" -c 'import libmr' >/dev/null 2>&1 && return
    # Its build reads the environment's numpy and cython, so it cannot be among the requirements.
    say "installing into $place: libmr (built from source)"
    "$python" -m pip install --disable-pip-version-check --no-input --no-build-isolation libmr >&2 ||
        die "pip could not build libmr in $place (its message is above): is there a C++ compiler, is the index reachable?"
}
