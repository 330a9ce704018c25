"""BERT's layers (Devlin et al. 2019) for tuning on a processor: in bfloat16 or float32, weights and gradients in float32.

Autocast over the module of transformers leaves three quarters of the time to casts, to a slow backward pass of the fused attention and to the
random numbers of dropout; written out, a passage costs a third (reports/log.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

State = dict[str, Any]
"""A layer's float32 tensors by their names in transformers' BertLayer."""


def layer(h: Any, blocked: Any, state: State, heads: int, eps: float, drop: Dropout) -> Any:
    """Token states (n, longest, width) after a layer, which runs in their type; `blocked` (n, 1, 1, longest) is added to the attention, 0 or very low."""
    import torch

    functional, (n, longest, width) = torch.nn.functional, h.shape
    p = {name: tensor.to(h.dtype) for name, tensor in state.items()}

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(x, (width,), p[f"{name}.weight"], p[f"{name}.bias"], eps)

    def split(name: str) -> Any:
        return linear(h, f"attention.self.{name}").view(n, longest, heads, width // heads).transpose(1, 2)

    scores = torch.matmul(split("query") * (heads / width) ** 0.5, split("key").transpose(-1, -2)) + blocked
    seen = torch.matmul(scores.softmax(-1), split("value")).transpose(1, 2).reshape(n, longest, width)
    h = norm(h + drop(linear(seen, "attention.output.dense")), "attention.output.LayerNorm")
    wide = functional.gelu(linear(h, "intermediate.dense"))
    return norm(h + drop(linear(wide, "output.dense")), "output.LayerNorm")


class Dropout:
    """Dropout whose mask is made of bytes, which cost a tenth of torch's Bernoulli draws; `share` is rounded to 1/256, 0 drops nothing."""

    def __init__(self, share: float, seed: int) -> None:
        self._below, self.rng = round(256 * share), np.random.default_rng(seed)

    def __call__(self, x: Any) -> Any:
        if not self._below:
            return x
        import torch

        drawn = np.frombuffer(self.rng.bytes(x.numel()), np.uint8) >= self._below
        return x * (torch.from_numpy(drawn).view(x.shape).to(x.dtype) * (256 / (256 - self._below)))
