#!/usr/bin/env python3
"""What share of raw ONNX Runtime the worker reaches: both measured in turn, raw, worker, raw, worker, …

usage: share.py MODEL:VARIANT [--rounds 4] [--seconds 5] [--concurrency 64] [--batches 1,2,4,8,16,32] [--threads 1]
Needs the worker kit's folder in BENCH_DIR (its models, perf_analyzer and venvs) and ORT_DYLIB_PATH; FOREBAY_WORKER is the binary.

A shared machine drifts by more within a minute than what is to be told apart. So raw and worker alternate, each round is
compared with the raw spells on both sides of it, and the median of the rounds counts. Raw runs at the batch size that was the
best of a first look over all sizes, in a process of its own that sleeps while the worker is measured, and vice versa. Both are
counted the same way: rows done between two instants by the clock (the worker's own counter `nv_inference_count`, read while
perf_analyzer keeps it busy), and CPU seconds of the whole process in between. CPU per row drifts least; it includes the
protocol's work, which raw does not have.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

BENCH = pathlib.Path(os.environ["BENCH_DIR"])
KIT = pathlib.Path(os.environ.get("BENCH_KIT", BENCH / "kit"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER = os.environ.get("FOREBAY_WORKER", str(ROOT / "target/release/forebay-worker"))
TICK = os.sysconf("SC_CLK_TCK")

RAW = r"""
import json, sys, time
import numpy as np, onnxruntime as ort
folder, variant, threads = sys.argv[1:4]
kinds = {"INT64": np.int64, "INT32": np.int32, "FLOAT": np.float32}
meta = json.load(open(f"{folder}/meta.json"))
data = json.load(open(f"{folder}/input-{variant}.json"))["data"]
columns = {i["name"]: [np.array(d[i["name"]]["content"], kinds[i["dtype"]]).reshape(d[i["name"]]["shape"]) for d in data]
           for i in meta["inputs"]}
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
session = ort.InferenceSession(f"{folder}/1/model.onnx", options, providers=["CPUExecutionProvider"])
for line in sys.stdin:
    batch, seconds = line.split()
    batch, seconds = int(batch), float(seconds)
    feed = {name: np.stack([rows[i % len(rows)] for i in range(batch)]) for name, rows in columns.items()}
    session.run(None, feed)
    runs, cpu, start = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() < start + seconds or runs < 3:
        session.run(None, feed)
        runs += 1
    took = time.perf_counter() - start
    print(json.dumps({"rows": runs * batch, "seconds": took, "cpu": time.process_time() - cpu}), flush=True)
"""


class Raw:
    def __init__(self, model: str, variant: str, threads: int) -> None:
        command = [str(BENCH / "v-base/bin/python"), "-c", RAW, str(BENCH / "models" / model), variant, str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def spell(self, batch: int, seconds: float) -> dict[str, float]:
        self.process.stdin.write(f"{batch} {seconds}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """The worker, with one model of the kit."""

    def __init__(self, model: str, threads: int, extra: list[str]) -> None:
        self.model = model
        self.repository = tempfile.TemporaryDirectory()
        os.symlink(BENCH / "models" / model, pathlib.Path(self.repository.name) / model)
        self.grpc, self.http = free_port(), free_port()
        self.process = subprocess.Popen(
            [WORKER, "--repository", self.repository.name, "--listen", f"127.0.0.1:{self.grpc}",
             "--http-listen", f"127.0.0.1:{self.http}", "--threads", str(threads), *extra],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.startswith("forebay-worker ready"):
                return
        sys.exit(f"{WORKER} ended with {self.process.wait()}")

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def reading(self) -> dict[str, float]:
        page, now = self.page(), time.perf_counter()
        value = lambda name: sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.M))
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return {"rows": value("nv_inference_count"), "runs": value("nv_inference_exec_count"), "seconds": now,
                "answered": value("nv_inference_request_success"), "in_worker": value("nv_inference_request_duration_us") / 1e6,
                "running": value("forebay_execution_seconds_sum"), "cpu": (int(stat[11]) + int(stat[12])) / TICK,
                "threads": self.thread_times()}

    def thread_times(self) -> dict[str, float]:
        times: dict[str, float] = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                head, tail = (task / "stat").read_text().rsplit(")", 1)
            except OSError:
                continue
            fields = tail.split()
            name = head.split("(", 1)[1]
            times[name] = times.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICK
        return times

    def spell(self, variant: str, concurrency: int, seconds: float) -> dict[str, float]:
        command = [str(KIT / "load/pa.sh"), "-m", self.model, "-i", "grpc", "-u", f"127.0.0.1:{self.grpc}", "--input-data",
                   str(BENCH / "models" / self.model / f"input-{variant}.json"), "--concurrency-range", str(concurrency),
                   "--async", "--max-threads", "1", "-p", str(int(seconds * 1000)), "-r", "3", "-s", "100000"]
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first = self.reading()["rows"]
        while self.reading()["rows"] < first + 2 * concurrency and load.poll() is None:
            time.sleep(0.05)  # until it is at full load
        before = self.reading()
        time.sleep(seconds)
        after = self.reading()
        # It holds its load until it is told to end; its own report is not needed.
        if load.poll() is not None:
            sys.exit("perf_analyzer ended early")
        load.send_signal(signal.SIGKILL)
        load.wait()
        threads = {name: round(after["threads"][name] - before["threads"].get(name, 0.0), 2) for name in after["threads"]}
        return {key: after[key] - before[key] for key in before if key != "threads"} | {"threads": threads}

    def learned(self) -> str:
        """What the worker believes, and what its runs took in the mean, by batch size."""
        lines = re.findall(r"^forebay_(?:best_batch_rows|expected_batch_seconds).*$", self.page(), re.M)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/models/{self.model}/stats", timeout=30) as answer:
            sizes = json.load(answer)["model_stats"][0]["batch_stats"]
        for size in sizes:
            runs, rows = size["compute_infer"]["count"], int(size["batch_size"])
            lines.append(f"batches of {rows}: {runs}, {size['compute_infer']['ns'] / 1e6 / max(runs, 1) / rows:.3f} ms a row")
        return "\n".join(lines)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.repository.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--batches", default="1,2,4,8,16,32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--details", action="store_true", help="CPU by thread, and what the worker learned")
    parser.add_argument("worker", nargs="*", help="more arguments of the worker, after --")
    arguments = parser.parse_args()
    model, variant = arguments.model.split(":")
    raw = Raw(model, variant, arguments.threads)
    server = Server(model, arguments.threads, arguments.worker)

    sizes = [int(size) for size in arguments.batches.split(",")]
    rate = lambda spell: spell["rows"] / spell["seconds"]
    looks = {size: [] for size in sizes}
    for _ in range(3):
        for size in sizes:
            looks[size].append(rate(raw.spell(size, 0.4)))
    best = max(sizes, key=lambda size: statistics.median(looks[size]))
    print("raw rows/s by batch: " + ", ".join(f"{size}: {statistics.median(looks[size]):.1f}" for size in sizes), flush=True)

    server.spell(variant, arguments.concurrency, 1)
    spells, served = [raw.spell(best, arguments.seconds)], []
    for _ in range(arguments.rounds):
        served.append(server.spell(variant, arguments.concurrency, arguments.seconds))
        spells.append(raw.spell(best, arguments.seconds))
        around = (rate(spells[-2]) + rate(spells[-1])) / 2
        here = served[-1]
        print(f"raw {around:8.1f}  worker {rate(here):8.1f} rows/s = {rate(here) / around:6.1%}  rows/run {here['rows'] / max(here['runs'], 1):5.1f}  "
              f"in runs {here['running'] / here['seconds']:6.1%}  CPU ms/row: raw {1e3 * spells[-1]['cpu'] / spells[-1]['rows']:.4f} "
              f"worker {1e3 * here['cpu'] / here['rows']:.4f}  a request in the worker {1e3 * here['in_worker'] / max(here['answered'], 1):.3f} ms" + (f"  {here['threads']}" if arguments.details else ""), flush=True)
    if arguments.details:
        print(server.learned())
    raw.end()
    server.end()
    shares = [rate(here) / ((rate(a) + rate(b)) / 2) for here, a, b in zip(served, spells, spells[1:])]
    per_row = lambda some: sum(spell["cpu"] for spell in some) / sum(spell["rows"] for spell in some)
    print(f"{arguments.model} x{arguments.threads}: share {statistics.median(shares):.1%} (min {min(shares):.1%}, max {max(shares):.1%}), "
          f"raw at batch {best}: {statistics.median(map(rate, spells)):.1f} rows/s, worker {statistics.median(map(rate, served)):.1f}; "
          f"CPU per row {per_row(served) / per_row(spells):.1%} of raw's")


main()
