"""The requests of one pass that wait as one: how they are found, and when they are done."""

from typing import Any

import numpy as np
import pytest

from tailcut.server.fastpath.groups import TargetGroup, WaitingGroups


def group(*generations: int) -> TargetGroup:
    members = np.array([[10 + generation, generation, 0, 0, 0] for generation in generations], np.int64)
    anything: Any = None
    return TargetGroup(anything, anything, members)


def test_a_request_is_found_until_its_group_is_done() -> None:
    """By the generation of its connection; a group may be answered in parts."""
    waiting, first, second = WaitingGroups(), group(1, 2, 3), group(4, 5)
    waiting.add(first)
    waiting.add(second)
    assert waiting.find(3) == (first, 2)
    assert waiting.find(4) == (second, 0)
    waiting.answered(first, 2)
    assert waiting.find(3) == (first, 2)
    waiting.answered(first, 1)
    with pytest.raises(LookupError):
        waiting.find(3)
    assert waiting.find(5) == (second, 1)


def test_what_was_answered_at_once_never_waited() -> None:
    """It is done without having been added."""
    waiting, item = WaitingGroups(), group(1, 2)
    waiting.answered(item, 2)
    assert item.left == 0
    with pytest.raises(LookupError):
        waiting.find(1)
