"""The encoder as an OpenVINO graph, built from its weights.

Not converted from the torch module: for that every worker would import torch and transformers first, about 4 s of processor time and 300 MB that
nothing else of a scan needs, and trace code that changes with their releases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tropescan.embedding.deltas import base, widened
from tropescan.errors import DamagedModel, ModelError

PAD = -1  # no token: a text may hold "[PAD]" itself
_BERT = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}


def graph(openvino: Any, folder: Path, tensors: dict[str, Any]) -> Any:
    """An openvino.Model: token numbers (1, n), the last of them PAD or none, to the last token states (1, n, width). No token sees a PAD.

    Raises DamagedModel, ModelError.
    """
    weights = base(folder)
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedModel(f"the encoder in {folder} cannot be loaded: {error}") from None
    other = [f"{k} {config.get(k)}" for k, wanted in _BERT.items() if config.get(k, wanted) != wanted]
    if other:
        raise ModelError(f"the openvino backend cannot run an encoder with {', '.join(other)}: give --backend torch")
    weights |= {f"encoder.{name}": whole for name, whole in widened(tensors, weights).items()}
    try:
        return _Bert(openvino, config, weights).model()
    except KeyError as error:
        raise DamagedModel(f"the encoder in {folder} lacks {error}") from None


class _Bert:
    """BERT (Devlin et al. 2019) without its pooler, for one sequence of any length."""

    def __init__(self, openvino: Any, config: dict[str, Any], weights: dict[str, Any]) -> None:
        self._openvino, self._op = openvino, openvino.opset14
        self._config, self._weights = config, weights

    def model(self) -> Any:
        op = self._op
        ids = op.parameter([1, -1], np.int64, name="ids")
        length = op.gather(op.shape_of(ids), self._ints(1), op.constant(np.int64(0)))
        known = op.maximum(ids, op.constant(np.int64(0)))
        words = op.gather(self._weight("embeddings.word_embeddings.weight"), known, op.constant(np.int64(0)))
        # one sequence: the type is always the first, and its embedding part of the places'
        kinds = self._array("embeddings.token_type_embeddings.weight")[0]
        places = op.constant(self._array("embeddings.position_embeddings.weight") + kinds)
        places = op.slice(places, self._ints(0), length, self._ints(1), self._ints(0))
        h = self._norm(op.add(words, places), "embeddings.LayerNorm")
        blind = op.convert(op.equal(ids, op.constant(np.int64(PAD))), np.float32)
        blind = op.unsqueeze(op.multiply(blind, op.constant(np.float32(-1e9))), self._ints(1, 2))
        for i in range(self._config["num_hidden_layers"]):
            h = self._layer(h, blind, f"encoder.layer.{i}.")
        return self._openvino.Model([h.output(0)], [ids], "encoder")

    def _layer(self, h: Any, blind: Any, name: str) -> Any:
        op = self._op
        query, key, value = (
            self._heads(self._linear(h, f"{name}attention.self.{n}")) for n in ("query", "key", "value")
        )
        seen = op.transpose(
            op.scaled_dot_product_attention(query, key, value, blind, causal=False), self._ints(0, 2, 1, 3)
        )
        seen = op.reshape(seen, self._ints(0, 0, self._config["hidden_size"]), True)
        h = op.add(h, self._linear(seen, f"{name}attention.output.dense"))
        h = self._norm(h, f"{name}attention.output.LayerNorm")
        wide = op.gelu(self._linear(h, f"{name}intermediate.dense"), "erf")
        return self._norm(op.add(h, self._linear(wide, f"{name}output.dense")), f"{name}output.LayerNorm")

    def _heads(self, x: Any) -> Any:
        heads = self._config["num_attention_heads"]
        shape = self._ints(0, 0, heads, self._config["hidden_size"] // heads)
        return self._op.transpose(self._op.reshape(x, shape, True), self._ints(0, 2, 1, 3))

    def _linear(self, x: Any, name: str) -> Any:
        op = self._op
        return op.add(op.matmul(x, self._weight(f"{name}.weight"), False, True), self._weight(f"{name}.bias"))

    def _norm(self, x: Any, name: str) -> Any:
        op = self._op
        even = op.mvn(x, self._ints(-1), True, self._config["layer_norm_eps"], "inside_sqrt")
        return op.add(op.multiply(even, self._weight(f"{name}.weight")), self._weight(f"{name}.bias"))

    def _weight(self, name: str) -> Any:
        return self._op.constant(self._array(name))

    def _array(self, name: str) -> Any:
        return self._weights[name].astype(np.float32)

    def _ints(self, *values: int) -> Any:
        return self._op.constant(np.array(values, np.int64))
