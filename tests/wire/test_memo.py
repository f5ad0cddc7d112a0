"""The bounded cache of the protocols."""

from tailcut.wire.memo import BytesMemo


def test_a_value_is_found_by_all_its_bytes_only() -> None:
    """Equal bytes find it, whatever object holds them; others do not."""
    memo: BytesMemo[bytes, int] = BytesMemo(4)
    assert memo.get(b"head") is None
    assert memo.keep(b"head", 1) == 1
    assert memo.get(bytes(bytearray(b"head"))) == 1
    assert memo.get(b"heads") is None
    assert b"head" in memo
    assert b"hea" not in memo


def test_a_full_memo_is_emptied() -> None:
    """However many keys come, no more are kept than it may hold, and the last one is among them."""
    memo: BytesMemo[bytes, int] = BytesMemo(16)
    for number in range(1000):
        memo.keep(b"%d" % number, number)
        assert len(memo) <= 16
        assert memo.get(b"%d" % number) == number
    memo.clear()
    assert len(memo) == 0
    assert memo.get(b"999") is None


def test_long_keys_are_not_kept() -> None:
    """Their values are returned all the same."""
    memo: BytesMemo[tuple[int, bytes], str] = BytesMemo(16, key_bytes=8)
    assert memo.keep((1, bytes(9)), "long", 9) == "long"
    assert memo.keep((1, bytes(8)), "short", 8) == "short"
    assert memo.get((1, bytes(9))) is None
    assert memo.get((1, bytes(8))) == "short"
