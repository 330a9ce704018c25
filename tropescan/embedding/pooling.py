"""What all backends share: a text's windows of tokens on the way in, one vector of their token states on the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tropescan.errors import DamagedModel
from tropescan.schema import Floats

Window = list[int]
"""The token numbers of one window, [CLS] and [SEP] included."""

States = Callable[[list[Window]], Iterator[tuple[int, npt.NDArray[np.float32]]]]
"""The token states (tokens, width) of windows, each with its place among them; in any order."""


class Embedding(Protocol):
    """What the scanner needs of an encoder."""

    dimensions: int
    backend: str
    """What runs it: the name of the backend, its arithmetic where the name does not tell, its device where that is not the processor."""

    def encode(self, texts: list[str]) -> Floats:
        """(n, dimensions). On a processor a row depends on its own text alone, to the last bit: never on its neighbours, never on threads."""
        ...


class Pooling:
    """A text's vector: the mean of its token states and q means weighted by attention, one after the other (width * (1 + q) numbers).

    The attention is that of `queries` (q, width), as attention-based multiple-instance learning pools (Ilse et al. 2018): one deciding sentence
    is not diluted by those around it. A text of more tokens than the window is cut into windows, and their vectors are averaged by length,
    so no text is truncated. Pooled in float64 outside the network: an encoder in bf16 gives its last states in float32.
    """

    def __init__(self, folder: Path, reference: dict[str, Any], tensors: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise DamagedModel(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._first, self._last = self._tokenizer.encode("").ids  # [CLS] and [SEP]
        self._room = int(reference["window_tokens"]) - 2
        width = int(reference["dimensions"])
        self._queries = np.asarray(tensors.get("queries", np.zeros((0, width))), np.float64)
        self.dimensions = width * (1 + len(self._queries))

    def encode(self, texts: list[str], states: States) -> Floats:
        """The vectors (n, dimensions) of texts."""
        cut = [self.windows(t) for t in texts]
        flat = [window for some in cut for window, _ in some]
        vectors = np.zeros((len(flat), self.dimensions))
        for place, found in states(flat):
            vectors[place] = self._pooled(found)
        out, at = np.zeros((len(texts), self.dimensions)), 0
        for i, some in enumerate(cut):
            out[i] = np.average(vectors[at : at + len(some)], axis=0, weights=[n for _, n in some])
            at += len(some)
        return out

    def windows(self, text: str) -> list[tuple[Window, int]]:
        """The text in windows, with their numbers of tokens; all are of equal length but for one token."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        # the tokens are cut, not the text: pieces of a word would be other tokens, and might be too many
        parts = np.array_split(np.array(ids, np.int64), max(1, -(-len(ids) // self._room)))
        return [([self._first, *part.tolist(), self._last], max(1, len(part))) for part in parts]

    def _pooled(self, states: npt.NDArray[np.float32]) -> Floats:
        h = states.astype(np.float64)
        z = h @ self._queries.T
        attention = np.exp(z - z.max(axis=0, initial=-np.inf))
        pooled = (attention / attention.sum(axis=0)).T @ h
        return np.concatenate([h.mean(axis=0), pooled.reshape(-1)])
