"""`python -m tropescan`."""

import sys

from tropescan.cli import main

if __name__ == "__main__":
    sys.exit(main())
