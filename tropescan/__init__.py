"""tropescan finds the passages of web-text corpora that portray AI as evil, scheming or self-preserving."""

__version__ = "0.1.0"
