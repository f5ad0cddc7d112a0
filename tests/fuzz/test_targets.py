"""The fuzzers' rules against messages that are nearly right: seeds with pieces cut out, doubled, swapped or spoilt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import runs
from tests.fuzz.targets import TARGETS

WORDS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"0", b"-1", b"ffffffff", b'"', b"[", b"]", b"{}", b"null", b"1e999"]
WORDS += [
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: y\r\n",
    b'"shape":[0,4],',
    b"NaN",
    b"\xff",
]
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.sampled_from(WORDS), st.binary(max_size=4)))


def edited(seed: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """The seed with, at each place, some bytes gone and others in their stead."""
    for place, gone, new in edits:
        at = int(place * len(seed))
        seed = seed[:at] + new + seed[at + gone :]
    return seed


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    """The rules hold for what is right."""
    target, seeds = TARGETS[name]
    for seed in seeds:
        target(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_rules_hold_for_spoilt_messages(name: str) -> None:
    """Some hundred neighbours of good messages break no rule; `make fuzz` tries millions."""
    target, seeds = TARGETS[name]

    @settings(max_examples=runs(400), deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(seeds), st.lists(EDIT, max_size=4))
    def check(seed: bytes, edits: list[tuple[float, int, bytes]]) -> None:
        target(edited(seed, edits))

    check()
