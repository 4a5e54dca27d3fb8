#!/usr/bin/env bash
# The worker and its peers one after the other, on one model, in one run of the worker kit (raw before and after each).
# usage: peers.sh OUT.csv MODEL:VARIANT SECONDS RAW_BATCHES SERVER…        (more options for the kit's run_peer.py: EXTRA)
# SERVER: forebay, or one of the kit's: triton pytriton mlserver litserve bento. BENCH_DIR and BENCH_KIT as for share.py.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${BENCH_DIR:?is not set, it must be the folder of the kit that has models/}"
kit=${BENCH_KIT:-$BENCH_DIR/kit}
out=$1 model=$2 seconds=$3 batches=$4
shift 4
for server in "$@"; do
  case $server in forebay) server="ours:$here/worker.sh {model} {threads}" ;; esac
  "$BENCH_DIR/v-triton/bin/python" "$kit/load/run_peer.py" "$server" "$model" --no-lock --threads 1 --secs "$seconds" \
    --raw-batches "$batches" --out "$out" ${EXTRA:---conc 64} || echo "FAILED $server $model"
done
