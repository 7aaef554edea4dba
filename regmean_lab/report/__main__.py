"""Entry point of ``python -m regmean_lab.report``."""

from __future__ import annotations

import sys

from regmean_lab.report.cli import main

if __name__ == "__main__":
    sys.exit(main())
