"""The compute seam: one Arrow batch of documents in, one row of scores a document out."""

from tropescan.scanner.scan import Scanner

__all__ = ["Scanner"]
