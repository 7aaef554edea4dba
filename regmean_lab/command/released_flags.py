"""Flags of the paper's released code on a command line: what to write instead."""

from __future__ import annotations

from collections.abc import Sequence

FLAGS = {
    "--config_files": "choose options of groups instead: experiment=emotion_pairwise, or suite= model= method=",
    "--filter_model": "name the members' corpora instead: members=[tec,isear]",
    "--templates": "write the values without it: seed=1, or -m seed=1,2,3",
}
"""By flag, what there is here in its place."""


def released_flag_problems(arguments: Sequence[str]) -> list[str]:
    """One message for each flag of the released code among the arguments."""
    given = dict.fromkeys(argument.partition("=")[0] for argument in arguments)
    return [
        f"{flag}: a flag of the paper's released code; {FLAGS[flag]} (docs/from_the_release.md)"
        for flag in given
        if flag in FLAGS
    ]
