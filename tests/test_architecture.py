"""docs/architecture.md agrees with the package."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from test_imports import MODULES, PACKAGE, ROOMS, imported, room

TEXT = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
ARROWS = [
    arrow
    for line in re.findall(r"^    (\S+(?: --> \S+)+)$", TEXT, re.MULTILINE)
    for names in [line.split(" --> ")]
    for arrow in itertools.pairwise(names)
]


def test_each_room_has_a_line_in_the_order_of_imports() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == list(ROOMS)


def test_each_arrow_is_an_import_and_no_room_is_left_out() -> None:
    imports = {(room(module), room(other)) for module in MODULES for other in imported(module) if other in MODULES}

    assert [arrow for arrow in ARROWS if arrow not in imports] == []
    assert {name for arrow in ARROWS for name in arrow} == set(ROOMS)


def test_whatever_a_room_imports_can_be_reached_by_arrows() -> None:
    def reached(start: str) -> set[str]:
        below = {end for begin, end in ARROWS if begin == start}
        return below.union(*map(reached, below))

    missing = sorted(
        {
            (room(module), room(other))
            for module in MODULES
            for other in imported(module)
            if other in MODULES and room(other) not in {room(module), "__init__"} | reached(room(module))
        }
    )
    assert missing == [], "docs/architecture.md lacks these arrows"


def test_each_file_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT)

    assert len(named) > 15
    assert [name for name in named if not (PACKAGE / name).is_file()] == []
