"""Bytes in and a content type out of the `magika` model.

The model looks at the first and the last 1024 bytes of a file, white space around them removed, as integers; 256 fills
what a short file leaves empty. The layout is that of Magika's model `standard_v3_3`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

MODEL = "magika"
INPUT = "bytes"
OUTPUT = "target_label"
SIDE = 1024
PADDING = 256
BLOCK = 4096


def features(content: bytes) -> np.ndarray:
    """One row for the model: int32, shape [2048]."""
    head = list(content[:BLOCK].lstrip()[:SIDE])
    tail = list(content[-BLOCK:].rstrip()[-SIDE:])
    row = head + [PADDING] * (SIDE - len(head)) + [PADDING] * (SIDE - len(tail)) + tail
    return np.array(row, np.int32)


def batch(contents: list[bytes]) -> dict[str, np.ndarray]:
    """The model's input for several files."""
    return {INPUT: np.stack([features(content) for content in contents])}


def labels(repository: Path) -> list[str]:
    """What each column of the output stands for."""
    return json.loads((repository / MODEL / "labels.json").read_text())
