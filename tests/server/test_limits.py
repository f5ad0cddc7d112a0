"""How long a client may take to read."""

from tailcut.server.limits import ServerLimits


def test_a_large_answer_has_longer() -> None:
    """The write timeout, and a second for each `write_rate` bytes."""
    limits = ServerLimits(write_timeout_s=2.0, write_rate=1000)
    assert (limits.write_s(0), limits.write_s(5000)) == (2.0, 7.0)
