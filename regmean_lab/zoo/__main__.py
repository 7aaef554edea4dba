"""``python -m regmean_lab.zoo``."""

from __future__ import annotations

import sys

from regmean_lab.zoo.cli import main

sys.exit(main())
