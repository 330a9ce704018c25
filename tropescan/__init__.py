"""tropescan finds the passages of web-text corpora that portray AI as evil, scheming or self-preserving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tropescan.runners.plain import scan_texts

__version__ = "0.1.0"
__all__ = ["__version__", "scan_texts"]


def __getattr__(name: str) -> Any:
    """`scan_texts`, imported when it is asked for: `import tropescan` alone costs nothing."""
    if name != "scan_texts":
        raise AttributeError(f"module 'tropescan' has no attribute '{name}'")
    from importlib import import_module

    return import_module("tropescan.runners.plain").scan_texts
