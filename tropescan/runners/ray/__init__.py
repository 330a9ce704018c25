"""Ray: a callable class for Ray Data, and the CLI's scan on a Ray cluster.

dataset.map_batches(Annotate, batch_format="pyarrow", batch_size=512, concurrency=4, fn_constructor_kwargs={"depth": "full"})
"""

from __future__ import annotations

from tropescan.errors import MissingExtra

try:
    import ray
except ImportError:
    raise MissingExtra(
        "tropescan.runners.ray needs Ray, which is not installed: run `pip install 'tropescan[ray]'`"
    ) from None

from tropescan.runners.ray.data import Annotate
from tropescan.runners.ray.run import run

__all__ = ["Annotate", "ray", "run"]
