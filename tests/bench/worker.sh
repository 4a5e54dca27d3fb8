#!/usr/bin/env bash
# Starts the worker for the worker benchmark kit: one model of $BENCH_DIR/models, gRPC on 127.0.0.1:8001.
# usage: worker.sh MODEL THREADS     (BENCH_DIR: the kit's folder;
# FOREBAY_WORKER: the binary; default target/release/forebay-worker of this checkout)
set -euo pipefail
: "${BENCH_DIR:?is not set, it must be the folder of the kit that has models/MODEL}"
here=$(cd "$(dirname "$0")/../.." && pwd)
worker=${FOREBAY_WORKER:-$here/target/release/forebay-worker}
repository=$(mktemp -d)
trap 'rm -rf "$repository"' EXIT
ln -s "$BENCH_DIR/models/$1" "$repository/$1"
"$worker" --repository "$repository" --listen 127.0.0.1:8001 --http-listen 127.0.0.1:0 --threads "$2" &
trap 'kill -TERM $! 2>/dev/null; wait $!; rm -rf "$repository"' TERM INT
wait $!
