#!/bin/sh
# Says what this machine lacks for building and running Forebay, all of it at once, with the command that helps.
# Prints nothing and ends with 0 when everything is there. With the argument "tests" it wants the servers that tests
# start, too.
set -u
cd "$(dirname "$0")/../.." || exit 1

python=${PYTHON:-python3}
packages=
missing=0

lacks() { # what, how to get it
    missing=$((missing + 1))
    printf '  missing: %s\n           %s\n' "$1" "$2" >&2
}
from_apt() { # what, package
    packages="$packages $2"
    lacks "$1" "apt package: $2"
}
has() { command -v "$1" >/dev/null 2>&1; }
at_least() { # found, wanted: both MAJOR.MINOR
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -t. -k1,1n -k2,2n | head -n 1)" = "$2" ]
}

system="$(uname -s) $(uname -m)"
case "$system" in
    "Linux x86_64" | "Linux aarch64") ;;
    *) lacks "a supported system (this is $system)" "Forebay is built and tested on Linux x86_64; Linux aarch64 should work" ;;
esac

rust_wanted=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)
if ! has cargo; then
    lacks "Rust $rust_wanted or newer (no cargo on the PATH)" "install it with rustup (https://rustup.rs), then open a new shell"
else
    rust_found=$(cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p')
    if [ -z "$rust_found" ]; then
        lacks "a cargo that runs ('cargo --version' failed)" "rustup default stable"
    elif ! at_least "$rust_found" "$rust_wanted"; then
        lacks "Rust $rust_wanted or newer (cargo here is $rust_found)" "rustup update stable"
    fi
fi
has cc || from_apt "a C compiler (cc)" build-essential
has make || from_apt "make" make

if ! has "$python"; then
    from_apt "Python 3.11 or newer ($python)" "python3 python3-venv"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    found=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "one that does not run")
    lacks "Python 3.11 or newer ($python here is $found)" "name another one: make PYTHON=python3.12 ..."
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    minor=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    from_apt "Python's venv module with pip" "$minor"
fi

if [ "${1:-}" = tests ]; then
    has etcd || from_apt "etcd, which tests start" etcd-server
    has redis-server || from_apt "Redis (redis-server), which tests of the gateway start" redis-server
fi

if [ "$missing" -gt 0 ]; then
    [ -z "$packages" ] || printf '\n  On Debian or Ubuntu:  sudo apt-get install%s\n' "$packages" >&2
    exit 1
fi
