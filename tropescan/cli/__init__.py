"""The command line: one verb to one module, one error to one line. Nothing heavy is imported before a verb is chosen."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any, TextIO

from tropescan.cli.arguments import parser
from tropescan.errors import TropescanError, shown

_ANSWERS = ("explain", "passages", "prevalence", "query", "status")
"""The verbs that only print: where nobody reads them any more, they end."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (tropescan/errors.py lists them)."""
    # closed by whoever started us
    sys.stdout, sys.stderr = (s or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") for s in (sys.stdout, sys.stderr))
    given = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    sys.stderr = _unbroken(sys.stderr, OSError)
    if (sys.argv[1:] if arguments is None else arguments)[0] not in _ANSWERS:
        sys.stdout = _unbroken(sys.stdout, BrokenPipeError)
    try:
        code = int(given.verb(given))
        sys.stdout.flush()  # a reader that is gone shows here, and not when Python ends
        return code
    except TropescanError as error:
        print(f"tropescan: {shown(str(error))}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        kept = "; what was committed stays, the same command goes on from there" if hasattr(given, "db") else ""
        print(f"tropescan: interrupted{kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of an answer is gone, as in `tropescan query ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a defect: one line for the user, the whole story for whoever asks for it
        if os.environ.get("TROPESCAN_TRACEBACK"):
            raise
        what = " ".join(str(error).split())[:300]
        print(
            f"tropescan: {type(error).__name__}: {what} (a defect; TROPESCAN_TRACEBACK=1 shows where)", file=sys.stderr
        )
        return TropescanError.code


class _Unbroken(io.FileIO):
    """A standard stream whose reader may go: what is written then goes nowhere, and the work goes on to its end and its exit code."""

    passed_over: type[OSError]

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except self.passed_over:
            return memoryview(data).nbytes


def _unbroken(stream: TextIO, passed_over: type[OSError]) -> TextIO:
    """The stream, if it is Python's own, as one whose writes do not fail so."""
    if stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    raw = _Unbroken(stream.fileno(), "wb", closefd=False)
    raw.passed_over = passed_over
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=stream.line_buffering
    )


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
