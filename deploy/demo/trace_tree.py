"""One request's spans as a tree, each with its duration and its place in time."""

from __future__ import annotations

from collections.abc import Iterator

from demo.otlp import Span
from demo.terminal import Terminal

LABEL_WIDTH = 44
BAR_WIDTH = 20
# Part of the name of every gRPC span; the method says enough.
SERVICE = "inference.GRPCInferenceService/"
# Attributes worth a word in the tree, where a span has them.
SHOWN = {"server.address": "to {}", "forebay.policy": "{}", "forebay.batch.requests": "requests: {}"}


def ordered(spans: list[Span]) -> Iterator[tuple[tuple[bool, ...], Span]]:
    """Parents before children, children by start; a span whose parent is elsewhere is a root.

    With each span, from the second level down to its own: whether it or its ancestor there is the last child.
    """
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

    def walk(parent: str, path: tuple[bool, ...]) -> Iterator[tuple[tuple[bool, ...], Span]]:
        siblings = children.get(parent, [])
        for span in siblings:
            own = (*path, span is siblings[-1]) if parent else ()
            yield own, span
            yield from walk(span.span_id, own)

    yield from walk("", ())


def branch(path: tuple[bool, ...], blocks: bool) -> str:
    """The lines that lead from the root to a span."""
    if not path:
        return ""
    above = "".join("  " if last else ("│ " if blocks else "| ") for last in path[:-1])
    return above + (("└ " if path[-1] else "├ ") if blocks else "+ ")


def render(spans: list[Span], terminal: Terminal) -> list[str]:
    if not spans:
        return []
    start = min(span.start_ns for span in spans)
    length = max(max(span.end_ns for span in spans) - start, 1)
    lines = []
    for path, span in ordered(spans):
        label = branch(path, terminal.blocks) + span.name.removeprefix(SERVICE)
        notes = [words.format(span.attributes[key]) for key, words in SHOWN.items() if key in span.attributes]
        if notes:
            label += f" ({', '.join(notes)})"
        if len(label) > LABEL_WIDTH:
            label = label[: LABEL_WIDTH - 1] + "…"
        bar = terminal.gantt((span.start_ns - start) / length, (span.end_ns - start) / length, BAR_WIDTH)
        colour = "cyan" if span.service == "forebay-gateway" else "green"
        lines.append(f"{label:<{LABEL_WIDTH}} {span.milliseconds:8.2f} ms {terminal.style(bar, colour)}".rstrip())
    return lines
