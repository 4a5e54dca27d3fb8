#!/usr/bin/env python3
"""What clients see of a server that fails, behind Forebay and its peers: every fault, protocol and size of request.

One of three servers fails for the middle half of each run; arrivals are Poisson, and a latency counts from when the
request was due. Uses the binaries, the load generator and the peer files of the proxy kit; see README.md.
"""
import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = ["kill", "hang", "flap", "slow", "broken", "errors"]
SIZES = {150528: 300, 1600: 600}  # bytes of a request: requests a second
TRIES = 3  # of a run whose generator fell behind
SERVER = ["--slots", "64", "--service-ms", "50", "--answer", "1600"]
Row = dict[str, Any]


class Server:
    """An upstream that can be made to fail."""

    def __init__(self, binary: Path, port: int, name: str) -> None:
        pinned = ["taskset", "-c", "1"]  # as the kit has it: the proxy has the other core
        self.command = [*pinned, str(binary), "--listen", f"127.0.0.1:{port}", "--name", name, *SERVER]
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout and self.process.stdout.readline(), f"{self.command} does not listen"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return answer.read().decode()

    def fail(self, fault: str, seconds: float) -> None:
        """Fails in this way for so long."""
        if fault == "kill":
            self.kill()
            time.sleep(seconds)
            self.start()
        elif fault == "hang":
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.process.send_signal(signal.SIGCONT)
        elif fault == "flap":  # once a second
            for _ in range(int(seconds)):
                self.kill()
                time.sleep(0.5)
                self.start()
                time.sleep(0.5)
        else:
            command = {"slow": "slowness=20", "broken": "fault=broken&share=0.3", "errors": "fault=errors&share=0.3"}
            self.get("/ctl?" + command[fault])
            time.sleep(seconds)
            self.get("/ctl?fault=none&slowness=1")


def measure(kit: Any, bench: Any, options: argparse.Namespace, peer: str, policy: str, run: Row) -> Row:
    """One run; what the load generator saw, and how many requests reached the servers for each that was sent."""
    proto, fault, size = run["proto"], run["fault"], run["bytes"]
    servers: list[Server] = []
    proxy = load = None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        try:
            ports = bench.free_ports(3)
            servers = [Server(options.upstream, port, f"u{index}") for index, port in enumerate(ports)]
            proxy, port = kit.proxy(peer, proto, policy, "fail", ports, 1, 0, folder)
            time.sleep(1.5)
            load = kit.loadgen(
                1, "--proto", proto, "--target", f"127.0.0.1:{port}", "--rate", SIZES[size], "--secs", options.seconds,
                "--warmup", 1, "--seed", 1, "--timeout-ms", 10000, "--req-bytes", size, wait=False,
            )
            time.sleep(1 + options.seconds / 4)
            servers[1].fail(fault, options.seconds / 2)
            seen = json.loads(load.communicate(timeout=60)[0])
            reached = sum(json.loads(server.get("/stats"))["requests"] for server in servers)
        finally:
            bench.stop(load)
            bench.stop(proxy)
            for server in servers:
                server.process.send_signal(signal.SIGCONT)
                server.kill()
    sent = SIZES[size] * (options.seconds + 1)
    keys = ["total", "failed", "p50_ms", "p99_ms", "max_ms", "max_failed_ms", "errors", "gen_lag_max_ms"]
    return {"peer": peer, **run, **{key: seen[key] for key in keys}, "reached": reached / sent}


def table(rows: list[Row]) -> None:
    """Failed requests and the longest wait, a line for each fault."""
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    for size in SIZES:
        print(f"\n| {size:,} bytes |" + "".join(f" {peer} |" for peer in peers))
        print("|---" * (len(peers) + 1) + "|")
        for fault in FAULTS:
            for proto in ("grpc", "h1"):
                cells = []
                for peer in peers:
                    here = (peer, fault, proto, size)
                    found = [r for r in rows if (r["peer"], r["fault"], r["proto"], r["bytes"]) == here]
                    if not found:
                        cells.append("")
                        continue
                    longest = max(max(row["max_ms"], row["max_failed_ms"]) for row in found)
                    p99 = statistics.median(row["p99_ms"] for row in found)
                    cells.append(f"{sum(row['failed'] for row in found)} / {p99:.0f} / {longest:,.0f}")
                if any(cells):
                    print(f"| {fault}, {proto} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", type=Path, required=True, help="the folder of the proxy kit")
    parser.add_argument("--upstream", type=Path, default=Path("target/debug/faulty-upstream"))
    parser.add_argument("--bin", action="append", default=[], metavar="PEER=PATH", help="as for the kit")
    parser.add_argument("--peers", default="nginx/least_conn,haproxy/leastconn,envoy/least_request,forebay/least_work")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--protos", default="grpc,h1")
    parser.add_argument("--bytes", default=",".join(map(str, SIZES)))
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--out", type=Path, default=Path("faults.jsonl"), help="a run that is in it is not repeated")
    parser.add_argument("--lock", help="as for the kit")
    parser.add_argument("--lock-batch", type=int, default=16)
    parser.add_argument("--max-lag-ms", type=float, default=50, help="a generator later than this: noise, run it again")
    parser.add_argument("--table", action="store_true", help="only print what --out has")
    options = parser.parse_args()
    sys.path.insert(0, str(options.kit))
    import bench

    rows: list[Row] = [json.loads(line) for line in options.out.open()] if options.out.exists() else []
    if not options.table:
        known: Callable[[Row], tuple[Any, ...]] = lambda row: (row["peer"], row["proto"], row["fault"], row["bytes"])
        done = {known(row) for row in rows}
        kit = bench.Kit(argparse.Namespace(bin=options.bin, lock=options.lock, lock_batch=options.lock_batch, out=None))
        for size in map(int, options.bytes.split(",")):
            for proto in options.protos.split(","):
                for fault in options.faults.split(","):
                    for peer, policy in (spec.split("/") for spec in options.peers.split(",")):
                        run = {"proto": proto, "fault": fault, "bytes": size}
                        if known({"peer": peer, **run}) in done:
                            continue
                        for _ in range(TRIES):
                            with kit.lock():
                                row = measure(kit, bench, options, peer, policy, run)
                            print(json.dumps(row), flush=True)
                            if row["gen_lag_max_ms"] <= options.max_lag_ms:
                                rows.append(row)
                                with options.out.open("a") as out:
                                    out.write(json.dumps(row) + "\n")
                                break
    table(rows)


if __name__ == "__main__":
    main()
