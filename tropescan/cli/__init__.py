"""The command line: one verb to one module, one error to one line. Nothing heavy is imported before a verb is chosen."""

from __future__ import annotations

import os
import signal
import sys

from tropescan.cli.arguments import parser
from tropescan.errors import TropescanError, shown


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (tropescan/errors.py lists them)."""
    # closed by whoever started us
    sys.stdout, sys.stderr = (s or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") for s in (sys.stdout, sys.stderr))
    given = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
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
    except BrokenPipeError:  # the reader of our output is gone, as in `tropescan query ... | head`
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


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
