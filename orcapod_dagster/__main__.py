"""`python -m orcapod_dagster`: the command line."""

import sys

from orcapod_dagster.cli import main

if __name__ == "__main__":
    sys.exit(main())
