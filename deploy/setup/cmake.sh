#!/bin/sh
# A C library inside the gateway (zlib-ng) is built with CMake. Where the machine has none, one is put into .venv,
# whose bin folder the Makefile appends to the PATH.
set -eu
cd "$(dirname "$0")/../.."
command -v cmake >/dev/null 2>&1 || exec ./deploy/setup/venv.sh cmake deploy/setup/cmake-requirements.txt
