"""Sentences in and out of the `minilm` model: tokens before the request, similarity after it.

The model takes token ids with free batch and sequence axes and answers one unit vector of 384 numbers per sentence,
so the similarity of two sentences is the dot product of their vectors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

MODEL = "minilm"
ENSEMBLE = "embed"
"""From sentences to vectors within the worker: a tokenizer, then the model."""
TEXT = "sentences"
OUTPUT = "sentence_embedding"
WIDTH = 384


class SentenceEncoder:
    """The model's own tokenizer, read from beside the model."""

    def __init__(self, repository: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(repository / MODEL / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length=128)
        self._tokenizer.enable_padding()

    def encode(self, sentences: list[str]) -> dict[str, np.ndarray]:
        """The model's three inputs, each of shape [sentences, longest sentence in tokens]."""
        encodings = self._tokenizer.encode_batch(sentences)
        return {
            "input_ids": np.array([e.ids for e in encodings], np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
            "token_type_ids": np.array([e.type_ids for e in encodings], np.int64),
        }


def nearest(query: np.ndarray, candidates: np.ndarray) -> list[tuple[int, float]]:
    """Candidates by falling similarity to the query, as (index, similarity)."""
    similarity = candidates @ query
    return [(int(i), float(similarity[i])) for i in np.argsort(-similarity)]
