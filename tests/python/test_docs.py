"""What the documentation shows is true: its links lead somewhere, its configurations are valid."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from conftest import ROOT, binaries

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
METRICS = ROOT / "docs" / "metrics.md"
NAMED_METRIC = re.compile(r"\b(?:forebay|nv)_[a-z0-9_]+")
BLOCK = re.compile(r"^( *)```toml\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """The anchors that a page has, as code forges make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in headings(target), f"{page.name}: {link}"


def blocks() -> list:
    return [
        pytest.param(text, id=f"{page.name}-{number}")
        for page in PAGES
        for number, (_, text) in enumerate(BLOCK.findall(page.read_text()), start=1)
    ]


def clusters_of(route: dict) -> set[str]:
    """Those that a route names."""
    others = [*route.get("split", []), route.get("fallback", {}), route.get("shadow", {})]
    names = [other if isinstance(other, str) else other.get("cluster") for other in others]
    return {name for name in [route.get("cluster"), *names] if name}


def completed(text: str) -> tuple[str, str]:
    """Which program the block is for, and the block with the tables that it leaves out."""
    tables = tomllib.loads(text)
    if "repository" in tables:
        return "forebay-worker", text
    if "listeners" not in tables:
        text += '\n[[listeners]]\naddress = "127.0.0.1:0"\n'
    known = {cluster["name"] for cluster in tables.get("clusters", [])}
    named = {name for route in tables.get("routes", []) for name in clusters_of(route)}
    wanted = named or (set() if known else {"workers"})
    for name in sorted(wanted - known):
        text += f'\n[[clusters]]\nname = "{name}"\nendpoints = ["127.0.0.1:1"]\n'
    if not tables.get("routes") and len(known) > 1:
        pytest.fail("a block with several clusters needs routes")
    return "forebay-gateway", text


def listed_metrics(text: str) -> set[str]:
    """Those in the tables of docs/metrics.md."""
    return set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_that_a_page_names_are_listed(page: Path) -> None:
    listed = listed_metrics(METRICS.read_text())
    for name in NAMED_METRIC.findall(page.read_text()):
        assert name in listed or re.sub(r"_(bucket|sum|count)$", "", name) in listed, f"{page.name}: {name}"


def test_the_gateway_has_the_metrics_that_are_listed() -> None:
    gateway, _ = METRICS.read_text().split("\n## Worker\n")
    sources = "".join(path.read_text() for path in (ROOT / "gateway" / "src").rglob("*.rs"))
    listed = listed_metrics(gateway)
    assert listed
    assert listed <= set(NAMED_METRIC.findall(sources))


@pytest.mark.parametrize("block", blocks())
def test_configurations_are_valid(block: str, tmp_path: Path) -> None:
    program, text = completed(block)
    file = tmp_path / "example.toml"
    file.write_text(text)
    command = [str(binaries() / program), "--config", str(file), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # Certificates and keys that an example names are not there; nothing else may be wrong.
    problems = done.stderr.splitlines()[1:]
    assert done.returncode == 0 or all(" cannot read " in problem for problem in problems), done.stderr
    assert done.returncode == 0 or problems, done.stderr
