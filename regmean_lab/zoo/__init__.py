"""A content-addressed store of trained members: what was trained once is never trained again.

``python -m regmean_lab.zoo`` lists, verifies and prunes it.
"""

from __future__ import annotations

from regmean_lab.zoo.address import JSON, member_address, statistics_key
from regmean_lab.zoo.entry import ZooEntry, ZooError
from regmean_lab.zoo.store import Pruned, Zoo

__all__ = ["JSON", "Pruned", "Zoo", "ZooEntry", "ZooError", "member_address", "statistics_key"]
