"""One request's spans as a tree, each with its duration and its place in time."""

from __future__ import annotations

from collections.abc import Iterator

from demo.otlp import Span
from demo.terminal import Terminal

LABEL_WIDTH = 44
BAR_WIDTH = 20
# Attributes worth a word in the tree, where a span has them.
SHOWN = {"server.address": "to {}", "forebay.policy": "{}", "forebay.batch.requests": "requests: {}"}


def ordered(spans: list[Span]) -> Iterator[tuple[int, Span]]:
    """Spans with their depth: parents before children, children by start. A span whose parent is elsewhere is a root."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

    def walk(parent: str, depth: int) -> Iterator[tuple[int, Span]]:
        for span in children.get(parent, []):
            yield depth, span
            yield from walk(span.span_id, depth + 1)

    yield from walk("", 0)


def render(spans: list[Span], terminal: Terminal) -> list[str]:
    if not spans:
        return []
    start = min(span.start_ns for span in spans)
    length = max(max(span.end_ns for span in spans) - start, 1)
    lines = []
    for depth, span in ordered(spans):
        branch = "" if depth == 0 else "  " * (depth - 1) + ("└ " if terminal.blocks else "` ")
        label = f"{branch}{span.name}"
        notes = [words.format(span.attributes[key]) for key, words in SHOWN.items() if key in span.attributes]
        if notes:
            label += f" ({', '.join(notes)})"
        if len(label) > LABEL_WIDTH:
            label = label[: LABEL_WIDTH - 1] + "…"
        bar = terminal.gantt((span.start_ns - start) / length, (span.end_ns - start) / length, BAR_WIDTH)
        colour = "cyan" if span.service == "forebay-gateway" else "green"
        lines.append(f"{label:<{LABEL_WIDTH}} {span.milliseconds:8.2f} ms {terminal.style(bar, colour)}".rstrip())
    return lines
