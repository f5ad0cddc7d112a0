"""A closed loop with many connections, on a real server."""

from tests.lab.scripted import answer_ok, scripted

from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import encode
from tailcut.lab.trial import Arm
from tailcut.tuner.saturated import SaturatedBlocks


def test_a_few_blocks() -> None:
    """No more than needed; their rate."""
    with scripted(answer_ok) as target:
        arm = Arm(target, [encode(target, "POST", "/")])
        blocks = SaturatedBlocks(4, 0.15)
        assert blocks.result() is None
        for _ in range(6):
            blocks.measure(arm)
    assert len(blocks._rates) == 4
    loop = blocks.result()
    assert loop is not None
    assert loop.clients == 4
    assert loop.throughput > 100


def test_without_time_nothing_is_measured() -> None:
    """A verification of a second or two has none to spare."""
    blocks = SaturatedBlocks(4, 0.05)
    blocks.measure(Arm(LoadTarget(port=1), []))
    assert blocks.result() is None
