"""Turns text into vectors: one encoder, and the backends that run it."""

from __future__ import annotations

from tropescan.embedding.backends import BACKENDS, encoder, processor_has_bf16, require_encoder
from tropescan.embedding.pooling import Embedding
from tropescan.embedding.sentence import SentenceEncoder

__all__ = ["BACKENDS", "Embedding", "SentenceEncoder", "encoder", "processor_has_bf16", "require_encoder"]
