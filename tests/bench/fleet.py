#!/usr/bin/env python3
"""Balancing where a fleet is not steady: speeds that change, two gateways on one fleet, bursts.

Drives the proxy kit (KIT: its folder, built), with the kit's peer files, upstreams and load generator:

    fleet.py KIT --bin forebay=target/release/forebay-gateway --bin envoy=... --out out.jsonl
    fleet.py --summary out.jsonl

Four batching servers (up to 8 requests a batch, 8 + 2n ms), one of them four times slower, as in the kit's `balance`.

change    after a third of the time the first becomes four times slower and the last as fast as the others; after two
          thirds both are again as they were
gateways  two gateways, each of which gets half of the requests; reported is the one that fares worse
bursts    `--burst` requests at once every half second beside a steady load of half of `--loads`; reported are the steady
          requests, and as `burst_ms` how long the last of a burst takes (median)

`direct/sed` is the kit's oracle without a proxy: the shortest expected delay by the speeds at the start. It sees the
requests of its own process only, and does not hear of changes.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

SPEEDS = [1.0, 1.0, 1.0, 4.0]
BATCH = "8:8:2"
CAPACITY = sum(1000 * 8 / (8 + 2 * 8) / speed for speed in SPEEDS)
BURST_INTERVAL = 0.5
Figures = dict[str, float]


class Fleet:
    """The servers, and whatever stands before them."""

    def __init__(self, kit: ModuleType, options: argparse.Namespace, peer: str, policy: str, gateways: int) -> None:
        self.kit, self.options, self.policy = kit, options, policy
        self.is_direct = peer == "direct"
        self.tools = kit.Kit(options)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = kit.free_ports(len(SPEEDS))
        self.targets: list[str] = []
        self.stack = contextlib.ExitStack()
        self.peer, self.gateways = peer, gateways

    def __enter__(self) -> "Fleet":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        for number, (port, speed) in enumerate(zip(self.ports, SPEEDS)):
            arguments = ["--model", f"batch:{BATCH}", "--mult", str(speed), "--grpc-msg", "1600"]
            self.processes.append(self.tools.upstream(port, 1, arguments, f"u{number}x{speed:g}"))
        servers = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        for _ in range(self.gateways):
            if self.is_direct:
                self.targets.append(servers)
                continue
            folder = self.stack.enter_context(tempfile.TemporaryDirectory())
            Path(folder).chmod(0o755)
            proxy, port = self.tools.proxy(self.peer, "grpc", self.policy, "plain", self.ports, 1, 0, folder)
            self.processes.append(proxy)
            self.targets.append(f"127.0.0.1:{port}")
        time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            self.kit.stop(process)
        self.stack.close()

    def load(self, gateway: int, rate: float, seconds: float, warmup: float, seed: int) -> "Load":
        arguments = ["--proto", "grpc", "--target", self.targets[gateway], "--rate", rate, "--secs", seconds]
        arguments += ["--pick", self.policy if self.is_direct else "rr", "--warmup", warmup, "--seed", seed]
        arguments += ["--weights", ",".join(str(1 / speed) for speed in SPEEDS), "--timeout-ms", 5000]
        arguments += ["--req-bytes", 1600]
        return Load(self.tools.loadgen(1, *arguments, wait=False))

    def slow_down(self, server: int, factor: float) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[server]}/ctl?mult={factor}") as answer:
            answer.read()


class Load:
    """A load generator that runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def result(self) -> Figures:
        return json.loads(self.process.communicate(timeout=120)[0])


def change(fleet: Fleet, load: float, options: argparse.Namespace, seed: int) -> Figures:
    running = fleet.load(0, CAPACITY * load, options.secs, options.warmup, seed)
    time.sleep(options.warmup + options.secs / 3)
    fleet.slow_down(0, 4)
    fleet.slow_down(3, 1)
    time.sleep(options.secs / 3)
    fleet.slow_down(0, 1)
    fleet.slow_down(3, 4)
    return running.result()


def gateways(fleet: Fleet, load: float, options: argparse.Namespace, seed: int) -> Figures:
    rate = CAPACITY * load / 2
    running = [fleet.load(gateway, rate, options.secs, options.warmup, seed + 1000 * gateway) for gateway in range(2)]
    results = [load.result() for load in running]
    worst = max(results, key=lambda result: result["p99_ms"])
    for total in ("failed", "total"):
        worst[total] = sum(result[total] for result in results)
    worst["gen_lag_max_ms"] = max(result["gen_lag_max_ms"] for result in results)
    return worst


def bursts(fleet: Fleet, load: float, options: argparse.Namespace, seed: int) -> Figures:
    steady = fleet.load(0, CAPACITY * load / 2, options.secs, options.warmup, seed)
    time.sleep(options.warmup)
    results: list[Figures] = []

    def burst(number: int) -> None:
        # So many within ten milliseconds.
        results.append(fleet.load(0, options.burst * 100, 0.01, 0, seed + number).result())

    threads = []
    for number in range(int(options.secs / BURST_INTERVAL)):
        threads.append(threading.Thread(target=burst, args=(number,)))
        threads[-1].start()
        time.sleep(BURST_INTERVAL)
    for thread in threads:
        thread.join()
    result = steady.result()
    result["burst_ms"] = statistics.median(burst["max_ms"] for burst in results)
    for total in ("failed", "total"):
        result[total] += sum(burst[total] for burst in results)
    return result


SCENARIOS = {"change": change, "gateways": gateways, "bursts": bursts}


def measure(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.kit)
    import bench as kit

    tools = kit.Kit(options)
    for seed in range(1, options.rounds + 1):
        for name in options.scenarios.split(","):
            for load in map(float, options.loads.split(",")):
                for peer, policy in (pair for spec in options.peers.split(",") for pair in kit.policies(tools, spec)):
                    count = 2 if name == "gateways" else 1
                    with tools.lock(), Fleet(kit, options, peer, policy, count) as fleet:
                        figures = SCENARIOS[name](fleet, load, options, seed)
                    about = {"scenario": name, "load": load, "peer": f"{peer}/{policy}", "seed": seed}
                    tools.emit(about | figures)


def lines(path: str) -> Iterator[dict]:
    with open(path) as file:
        yield from map(json.loads, file)


def summary(path: str, most_lag: float) -> None:
    """A table for each scenario; runs in which the generator fell behind are left out."""
    groups: dict[tuple, list[dict]] = {}
    for line in lines(path):
        if line["gen_lag_max_ms"] <= most_lag:
            groups.setdefault((line["scenario"], line["load"], line["peer"]), []).append(line)
    for scenario, load in dict.fromkeys(key[:2] for key in groups):
        print(f"\n### {scenario}, load {load:.0%}\n\n| | p50 ms | p99 ms | longest ms | burst ms | failed | runs |")
        print("|---|---|---|---|---|---|---|")
        for (_, _, peer), runs in ((key, runs) for key, runs in groups.items() if key[:2] == (scenario, load)):
            p50, p99, longest = (statistics.median(run[f"{name}_ms"] for run in runs) for name in ("p50", "p99", "max"))
            burst = [run["burst_ms"] for run in runs if "burst_ms" in run]
            burst_text = f"{statistics.median(burst):.0f}" if burst else ""
            failed = f"{sum(run['failed'] for run in runs)}/{sum(run['total'] for run in runs)}"
            print(f"| {peer} | {p50:.0f} | {p99:.0f} | {longest:.0f} | {burst_text} | {failed} | {len(runs)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", nargs="?", help="folder of the proxy kit")
    parser.add_argument("--summary", metavar="FILE", help="print the tables of a run's --out")
    parser.add_argument("--peers", default="direct/sed,nginx/least_conn,haproxy/leastconn,envoy/least_request,forebay/least_work")
    parser.add_argument("--bin", action="append", default=[], metavar="PEER=PATH")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--loads", default="0.6,0.85")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=float, default=12)
    parser.add_argument("--warmup", type=float, default=3)
    parser.add_argument("--burst", type=int, default=100)
    parser.add_argument("--out", default="fleet.jsonl")
    parser.add_argument("--lock", help="flock this file around each measurement")
    parser.add_argument("--lock-batch", type=int, default=6)
    parser.add_argument("--max-lag-ms", type=float, default=25)
    options = parser.parse_args()
    if options.summary:
        summary(options.summary, options.max_lag_ms)
    elif options.kit:
        measure(options)
    else:
        parser.error("the kit's folder is missing")


if __name__ == "__main__":
    main()
