"""Which backend runs the encoder: asked for, installed, and within the processor's means."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tropescan.embedding.pooling import Embedding
from tropescan.errors import InputError, MissingExtra

BACKENDS = ("auto", "torch", "bf16", "openvino")
"""torch: fp32, the reference; bf16: torch in bf16; openvino: bf16 where the processor has it, else float32; auto: the fastest of them that is there."""

_NEEDS = {
    "torch": ("torch", "sentence_transformers"),
    "bf16": ("torch", "sentence_transformers"),
    "openvino": ("openvino", "tokenizers"),
}


def require_encoder(backend: str = "auto", device: str = "cpu") -> str:
    """The backend that will run: what 'auto' means here, else `backend` itself. Imports nothing.

    Raises MissingExtra where it is not installed, InputError where this processor or device cannot run it.
    """
    if backend not in BACKENDS:
        raise InputError(f"no such backend '{backend}': {', '.join(BACKENDS)}")
    if backend == "auto":
        return _fastest(device)
    if not _installed(backend):
        raise MissingExtra(_missing(backend))
    if backend == "openvino" and device != "cpu":
        raise InputError(
            f"the openvino backend runs on the processor, not on {device}: leave out one of --backend, --device"
        )
    if backend == "bf16" and device == "cpu" and not processor_has_bf16():
        raise InputError(
            "this processor has no bf16 arithmetic (avx512_bf16, amx_bf16): give --backend torch or openvino"
        )
    return backend


def encoder(
    reference: dict[str, Any],
    tensors: dict[str, Any],
    backend: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
) -> Embedding:
    """The encoder in a backend. Raises MissingExtra, InputError, ModelError, DamagedModel."""
    chosen = require_encoder(backend, device)
    if chosen == "openvino":
        from tropescan.embedding.compiled import CompiledEncoder

        return CompiledEncoder(reference, tensors, threads)
    from tropescan.embedding.sentence import SentenceEncoder

    return SentenceEncoder(reference, tensors, device, threads, bf16=chosen == "bf16")


def processor_has_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers; False where that cannot be told (not Linux): torch would emulate it, slowly."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set[str]())
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def _fastest(device: str) -> str:
    if device == "cpu" and _installed("openvino"):
        return "openvino"
    if not _installed("torch"):
        raise MissingExtra(_missing("torch"))
    fast = processor_has_bf16() if device == "cpu" else device.startswith("cuda")
    return "bf16" if fast else "torch"


def _installed(backend: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in _NEEDS[backend])


def _missing(backend: str) -> str:
    if backend == "openvino":
        return (
            "the openvino backend is not installed: run `pip install 'tropescan[openvino]'`, or give another --backend"
        )
    return (
        "--depth full and lean need the encoder tier, which is not installed: run `pip install 'tropescan[encoder]'`, "
        "or scan with --depth fast (fast tier only)"
    )
