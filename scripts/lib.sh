# What scripts/serve and scripts/test share; sourced, not run. Works with nothing but Python 3.11 and bash at hand.
# shellcheck shell=bash

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
cache=$root/.cache

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

# Runs a command with one set-up at a time: two scripts that start together do not build the same things at once.
# The lock ends with the subshell, so nothing that runs later holds it.
one_at_a_time() {
    mkdir -p "$cache"
    if command -v flock >/dev/null; then
        (
            exec 9>"$cache/setup.lock"
            flock 9
            "$@"
        )
    else
        "$@"
    fi
}

# Whether a Python is 3.11 or newer. It is really run: a name on the PATH may be a shim that leads nowhere.
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Whether a Python can make virtual environments. Debian has `venv` without the part that puts pip into them.
makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# Prints the name of a Python that can be used, or says what is missing.
find_python() {
    local name found=
    for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
        is_new_enough "$name" || continue
        if makes_venvs "$name"; then
            printf '%s\n' "$name"
            return
        fi
        found=${found:-$name}
    done
    if [[ -n $found ]]; then
        local version
        version=$("$found" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        fail "$found cannot make virtual environments, because its venv module is not complete." \
            "On Debian and Ubuntu:  sudo apt-get install $version-venv"
    fi
    fail "iii-state needs Python 3.11 or newer, and none was found (looked for python3 and python3.11 to python3.14)." \
        "On Debian 12 and later, and Ubuntu 24.04 and later:  sudo apt-get install python3 python3-venv"
}

# Prints the checksum of what an installation depends on: the arguments, and what comes on the standard input.
fingerprint() {
    local python=$1
    shift
    { printf '%s\n' "$@"; cat; } | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

# Makes .venv with the project in it, editable. The argument is what to install besides: "" or an extra ("test").
# Does nothing where that has been done for this pyproject.toml and this part in C.
ensure_venv() {
    local extra=$1 stamp=$venv/.installed${1:+-$1} now
    if [[ -f $stamp ]] && now=$(venv_fingerprint) && [[ $(<"$stamp") == "$now" ]]; then
        return
    fi
    one_at_a_time install_project "$extra" "$stamp"
}

# Whether .venv can be installed into: its Python runs, is new enough, has pip, and has not been moved since it was made.
venv_is_sound() {
    is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        grep -qF "$venv/bin/python" "$venv/bin/pip"
}

# The place counts, too: a virtual environment does not work in a folder that has been moved or copied.
venv_fingerprint() {
    cat "$root/pyproject.toml" "$root/scripts/build_native.py" "$root/iii_state/values/_native.c" 2>/dev/null |
        fingerprint "$venv/bin/python" "$venv"
}

install_project() {
    local extra=$1 stamp=$2 python now
    # Another script may have done it while this one waited.
    if [[ -f $stamp ]] && now=$(venv_fingerprint) && [[ $(<"$stamp") == "$now" ]]; then
        return
    fi
    if ! venv_is_sound; then
        python=$(find_python)
        say "Making a virtual environment in .venv ($("$python" --version)) …"
        "$python" -m venv --clear "$venv"
    fi
    rm -f "$stamp"
    say "Installing iii-state${extra:+ and what its tests need} into .venv …"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root${extra:+[$extra]}" >&2
    # Whoever has the extras has what the plain installation wants.
    now=$(venv_fingerprint)
    printf '%s\n' "$now" >"$venv/.installed"
    printf '%s\n' "$now" >"$stamp"
}
