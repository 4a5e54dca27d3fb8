#!/usr/bin/env python3
"""Whether load reports help: three real workers, one of them slow, two gateways, and a client that goes to one worker.

    PYTHONPATH=deploy reports.py --binaries target/release --models .demo/models --out reports.jsonl
    PYTHONPATH=deploy reports.py --summary reports.jsonl

Each worker stands still for a part of the time, so that their sum fits two cores and each has a speed of its own. The
first gateway gets nine requests in ten, the second one the tenth; one in ten has eight rows, the others one. Besides,
a client sends `--burst` requests at once to the first worker every two seconds, past the gateways. Arrivals are Poisson,
and latency counts from when a request was due.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
from demo import content_types
from demo.processes import Processes
from tritonclient.grpc import service_pb2

STANDSTILLS = [0.5, 0.5, 0.8]
SHARES = [0.9, 0.1]
LARGE = 8
WORKER = """\
repository = "{models}"
listen = "127.0.0.1:0"
http_listen = "127.0.0.1:0"
threads = 1
[telemetry]
log_level = "error"
"""
GATEWAY = """\
threads = 1
[admin]
listen = "127.0.0.1:0"
[telemetry]
log_level = "error"
[[listeners]]
address = "127.0.0.1:0"
[[clusters]]
name = "workers"
policy = "{policy}"
endpoints = [{endpoints}]
{keys}
"""
# By the name that the table has for them: policy, and more keys of the cluster.
VARIANTS = {
    "least_request": ("least_request", ""),
    "reports ignored": ("least_work", 'load_reports = "ignore"'),
    "reports with answers": ("least_work", 'load_reports = "answers"'),
    "reports streamed": ("least_work", 'load_reports = "stream"'),
}


def message(rows: int) -> bytes:
    row = content_types.features(b"def main():\n    pass\n" * 40)
    request = service_pb2.ModelInferRequest(model_name=content_types.MODEL)
    tensor = request.inputs.add(name=content_types.INPUT, datatype="INT32", shape=[rows, len(row)])
    assert tensor.shape[0] == rows
    request.raw_input_contents.append(row.tobytes() * rows)
    return request.SerializeToString()


class Client:
    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.call = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self.latencies: list[float] = []
        self.failed = 0

    async def ask(self, request: bytes, due: float, counts: bool) -> None:
        try:
            await self.call(request, timeout=10)
        except grpc.aio.AioRpcError:
            self.failed += 1
        if counts:
            self.latencies.append((time.monotonic() - due) * 1e3)


async def poisson(client: Client, rate: float, options: argparse.Namespace, seed: int, messages: list[bytes]) -> None:
    generator = random.Random(seed)
    start = due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while due < start + options.warmup + options.secs:
            due += generator.expovariate(rate)
            await asyncio.sleep(max(due - time.monotonic(), 0))
            request = messages[generator.random() < 0.1]
            group.create_task(client.ask(request, due, due > start + options.warmup))


async def bursts(client: Client, options: argparse.Namespace, request: bytes) -> None:
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < start + options.warmup + options.secs:
            await asyncio.sleep(2)
            for _ in range(options.burst):
                group.create_task(client.ask(request, time.monotonic(), False))


async def load(gateways: list[str], worker: str, options: argparse.Namespace, seed: int) -> list[Client]:
    messages = [message(1), message(LARGE)]
    clients = [Client(address) for address in gateways]
    async with asyncio.TaskGroup() as group:
        for number, (client, share) in enumerate(zip(clients, SHARES)):
            group.create_task(poisson(client, options.rate * share, options, seed + 1000 * number, messages))
        group.create_task(bursts(Client(worker), options, messages[0]))
    return clients


def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, Processes(options.binaries, Path(folder)) as processes:
        repository = Path(folder) / "models"
        repository.mkdir()
        model = content_types.MODEL
        (repository / model).symlink_to((options.models / model).resolve())
        config = WORKER.format(models=repository)
        workers = [processes.worker(f"worker-{number}", config) for number in range(len(STANDSTILLS))]
        for worker, share in zip(workers, STANDSTILLS):
            command = [sys.executable, "-m", "demo.slow_machine", str(worker.program.process.pid), str(share)]
            processes.run(f"slow-{worker.grpc}", command)
        endpoints = ", ".join(f'"{worker.grpc}"' for worker in workers)
        gateways = {}
        for name in options.variants.split(","):
            policy, keys = VARIANTS[name]
            config = GATEWAY.format(policy=policy, endpoints=endpoints, keys=keys)
            names = [f"gateway-{len(gateways)}-{number}" for number in range(len(SHARES))]
            gateways[name] = [processes.gateway(file, config).address for file in names]
        for seed in range(1, options.rounds + 1):
            for name, addresses in gateways.items():
                clients = asyncio.run(load(addresses, workers[0].grpc, options, seed))
                for client, share in zip(clients, SHARES):
                    report(options.out, name, share, seed, client)


def report(out: Path, variant: str, share: float, seed: int, client: Client) -> None:
    cuts = statistics.quantiles(client.latencies, n=100, method="inclusive")
    line = {"variant": variant, "share": share, "seed": seed, "failed": client.failed, "total": len(client.latencies)}
    line |= {"p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98]}
    print(json.dumps(line), flush=True)
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")


def summary(path: Path) -> None:
    groups: dict[tuple[str, float], list[dict]] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        groups.setdefault((line["variant"], line["share"]), []).append(line)
    print("| | share of the requests | p50 ms | p95 ms | p99 ms | failed | runs |\n|---|---|---|---|---|---|---|")
    for (variant, share), runs in groups.items():
        figures = [statistics.median(run[f"{name}_ms"] for run in runs) for name in ("p50", "p95", "p99")]
        failed = f"{sum(run['failed'] for run in runs)}/{sum(run['total'] for run in runs)}"
        p50, p95, p99 = (f"{figure:.0f}" for figure in figures)
        print(f"| {variant} | {share:.0%} | {p50} | {p95} | {p99} | {failed} | {len(runs)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", type=Path, metavar="FILE", help="print the table of a run's --out")
    parser.add_argument("--binaries", type=Path, default=Path("target/release"))
    parser.add_argument("--models", type=Path, default=Path(".demo/models"))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--rate", type=float, default=80, help="requests a second, of both gateways together")
    parser.add_argument("--burst", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=float, default=20)
    parser.add_argument("--warmup", type=float, default=4)
    parser.add_argument("--out", type=Path, default=Path("reports.jsonl"))
    options = parser.parse_args()
    summary(options.summary) if options.summary else measure(options)


if __name__ == "__main__":
    main()
