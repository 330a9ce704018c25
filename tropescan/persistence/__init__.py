"""Model folders: written whole, verified before use, fingerprinted. JSON, text and safetensors only."""

from __future__ import annotations

from tropescan.persistence.folder import (
    BESIDE,
    DEPTHS,
    FORMAT,
    OUT_OF_SOURCE,
    SCORING,
    Model,
    find,
    load,
    save,
)
from tropescan.persistence.held import (
    OutOfSource,
    format_out_of_source,
    out_of_source,
    parse_out_of_source,
    text_key,
)

__all__ = [
    "BESIDE",
    "DEPTHS",
    "FORMAT",
    "OUT_OF_SOURCE",
    "SCORING",
    "Model",
    "OutOfSource",
    "find",
    "format_out_of_source",
    "load",
    "out_of_source",
    "parse_out_of_source",
    "save",
    "text_key",
]
