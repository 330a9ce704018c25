"""The scan's inner loops, compiled: what passages.py, lexicon.py and fast.py do array after array, in one loop a passage.

Each gives what it stands for to the last bit (tests/test_kernels.py holds them against each other): the fast tier's values lie on binary grids, so
that no order of summing shows. Compiling takes some seconds once a machine, loading half a second: the scanner brings them in where there is
enough to do, and does without them where Numba is not to be had.
"""

from tropescan.kernels.cuts import characters, cuts, holding, lengths, load
from tropescan.kernels.sums import sums, table

__all__ = ["characters", "cuts", "holding", "lengths", "load", "sums", "table"]
