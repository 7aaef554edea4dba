"""``python -m regmean_lab.prepare``."""

from __future__ import annotations

import sys

from regmean_lab.prepare.cli import main

sys.exit(main())
