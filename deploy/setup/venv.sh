#!/usr/bin/env bash
# Puts Python packages into .venv, once: a second run compares a stamp and ends at once.
# Usage: venv.sh NAME REQUIREMENTS      NAME names the stamp and the purpose in the messages.
# Versions of everything, dependencies included, are those of constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=$1
requirements=$2
constraints=deploy/setup/constraints.txt
venv=.venv
python=${PYTHON:-python3}

if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
    rm -rf "$venv"
    echo "Python: making $venv"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "Python: '$python -m venv' failed; on Debian or Ubuntu install python3-venv" >&2
        exit 1
    fi
fi

stamp="$venv/.installed-$name"
wanted="$("$venv/bin/python" --version) $(cat "$requirements" "$constraints" | cksum)"
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi

echo "Python: installing the packages for $name into $venv (once; a minute or two)"
install=("$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off
    --constraint "$constraints" --requirement "$requirements")
if [ -t 1 ]; then
    # One line that counts, in the place of hundreds.
    "${install[@]}" | awk '
        /^ *(Downloading|Using cached) / { printf "\r  %3d  %-60.60s", ++count, $NF ~ /\)$/ ? $(NF - 2) : $NF; fflush() }
        END { printf "\r  %3d packages %-55s\n", count, "" }'
else
    "${install[@]}" --quiet
fi
printf '%s' "$wanted" >"$stamp"
