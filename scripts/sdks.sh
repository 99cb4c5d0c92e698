# The official SDKs of iii that tests/sdk runs against, each in a folder of its own; sourced by scripts/test.
# shellcheck shell=bash disable=SC2154

# The same versions stand in tests/support/sdk/workers.py.
python_sdks=(0.12.0 0.25.0)
node_sdks=(0.11.6 0.22.1)

# The compiler that checks the TypeScript examples of iii_state/skills; the version stands in its index.md, too.
typescript=5.9.3

# Installs what is missing of them. Without Node.js 18 or newer the Node SDKs and TypeScript are left out; their tests say so.
ensure_sdks() {
    local version
    for version in "${python_sdks[@]}"; do
        has_python_sdk "$version" || one_at_a_time install_python_sdk "$version"
    done
    local packages=("${node_sdks[@]/#/iii-sdk@}" "typescript@$typescript") package
    for package in "${packages[@]}"; do
        has_node_package "$package" && continue
        if ! has_node; then
            say "Node.js 18 or newer with npm was not found: the tests with the Node SDKs will be skipped."
            return
        fi
        one_at_a_time install_node_package "$package"
    done
}

has_node() {
    command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' >/dev/null 2>&1
}

# Whether it is there, and the Python it was made with as well.
has_python_sdk() { [[ -f $cache/sdks/python-$1/.installed && -x $cache/sdks/python-$1/bin/python ]]; }

install_python_sdk() {
    local version=$1 directory=$cache/sdks/python-$1
    has_python_sdk "$version" && return
    say "Installing iii-sdk $version for Python …"
    "$venv/bin/python" -m venv --clear "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check "iii-sdk==$version" >&2
    touch "$directory/.installed"
}

# The folder of a package of npm: node-VERSION for the SDKs, NAME-VERSION for others.
node_folder() {
    local name=${1%@*}
    [[ $name != iii-sdk ]] || name=node
    printf '%s\n' "$cache/sdks/$name-${1##*@}"
}

has_node_package() { [[ -f $(node_folder "$1")/.installed ]]; }

install_node_package() {
    local directory
    directory=$(node_folder "$1")
    has_node_package "$1" && return
    say "Installing $1 for Node …"
    mkdir -p "$directory"
    printf '{"private": true}\n' >"$directory/package.json"
    # No package of these needs its install script.
    npm install --prefix "$directory" --ignore-scripts --no-audit --no-fund --no-progress --loglevel error "$1" >/dev/null
    touch "$directory/.installed"
}
