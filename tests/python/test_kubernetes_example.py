"""The manifests under deploy/kubernetes fit together, and the configurations in them are valid."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, binaries

FOLDER = ROOT / "deploy" / "kubernetes"
SECONDS = {"s": 1, "m": 60}


def documents() -> list[dict]:
    return [document for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]


def find(kind: str, name: str) -> dict:
    found = [document for document in documents() if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def named(kind: str) -> list:
    return [pytest.param(document, id=document["metadata"]["name"]) for document in documents() if document["kind"] == kind]


def pod(deployment: dict) -> dict:
    return deployment["spec"]["template"]["spec"]


def configuration(deployment: dict) -> tuple[str, str]:
    """Which program the pod runs, and the configuration that it is given."""
    (container,) = pod(deployment)["containers"]
    option, path = container["args"]
    assert option == "--config"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(deployment)["volumes"]}
    assert set(mounts.values()) == set(volumes)
    volume = volumes[mounts[str(Path(path).parent)]]
    data = find("ConfigMap", volume["configMap"]["name"])["data"]
    return container["image"].split(":")[0], data[Path(path).name]


def seconds(duration: str) -> int:
    return int(duration[:-1]) * SECONDS[duration[-1]]


@pytest.mark.parametrize("deployment", named("Deployment"))
def test_configurations_are_valid(deployment: dict, tmp_path: Path) -> None:
    program, text = configuration(deployment)
    path = tmp_path / "configuration.toml"
    path.write_text(text)
    done = subprocess.run([binaries() / program, "--config", path, "--check"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("deployment", named("Deployment"))
def test_pods_have_what_is_said_of_them(deployment: dict) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (container,) = pod(deployment)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listened = {table_port(table) for table in listeners(tomllib.loads(configuration(deployment)[1]))}
    assert set(ports.values()) == listened
    for probe in [container["readinessProbe"], container.get("livenessProbe", {})]:
        if "httpGet" in probe:
            assert probe["httpGet"]["port"] in ports
        if "grpc" in probe:
            assert probe["grpc"]["port"] in ports.values()


def listeners(tables: dict) -> list[str]:
    if "repository" in tables:
        return [tables["listen"], tables["http_listen"]]
    return [tables["admin"]["listen"], *(listener["address"] for listener in tables["listeners"])]


def table_port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


@pytest.mark.parametrize("service", named("Service"))
def test_services_lead_to_pods(service: dict) -> None:
    selector = service["spec"]["selector"]
    chosen = [
        deployment
        for deployment in documents()
        if deployment["kind"] == "Deployment"
        and selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    ]
    assert len(chosen) == 1
    names = {port["name"] for port in pod(chosen[0])["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_the_gateway_may_see_what_it_looks_for() -> None:
    gateway = find("Deployment", "forebay-gateway")
    account = pod(gateway)["serviceAccountName"]
    find("ServiceAccount", account)
    binding = find("RoleBinding", "forebay-gateway")
    assert [(subject["kind"], subject["name"]) for subject in binding["subjects"]] == [("ServiceAccount", account)]
    (rule,) = find(binding["roleRef"]["kind"], binding["roleRef"]["name"])["rules"]
    assert rule == {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["get", "list", "watch"],
    }
    (cluster,) = tomllib.loads(configuration(gateway)[1])["clusters"]
    wanted = cluster["discovery"]["kubernetes"]
    ports = find("Service", wanted["service"])["spec"]["ports"]
    assert wanted["port"] in [port["name"] for port in ports]


def test_pods_are_given_the_time_to_drain() -> None:
    gateway = find("Deployment", "forebay-gateway")
    tables = tomllib.loads(configuration(gateway)[1])
    drain = seconds(tables["drain_delay"]) + seconds(tables["drain_timeout"])
    assert pod(gateway)["terminationGracePeriodSeconds"] > drain
