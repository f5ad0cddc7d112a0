"""Frames of HTTP/2: their bytes, padding, settings, and the budget for useless ones."""

import pytest

from tailcut.wire.http2.frames import (
    PADDED,
    Budget,
    ErrorCode,
    FrameType,
    Http2Error,
    SettingId,
    frame,
    read_settings,
    unpadded,
    word,
)


def setting(key: int, value: int) -> bytes:
    return key.to_bytes(2, "big") + word(value)


@pytest.mark.parametrize(
    ("kind", "flags", "stream", "payload", "head"),
    [
        (FrameType.SETTINGS, 0, 0, b"", "000000 04 00 00000000"),
        (FrameType.DATA, 1, 3, b"abc", "000003 00 01 00000003"),
        (FrameType.HEADERS, 4, 2**31 - 1, bytes(16384), "004000 01 04 7fffffff"),
    ],
)
def test_a_frame_is_its_head_and_its_payload(
    kind: FrameType, flags: int, stream: int, payload: bytes, head: str
) -> None:
    """Length in 24 bits, kind, flags, and the stream in 31."""
    assert frame(kind, flags, stream, payload) == bytes.fromhex(head) + payload


@pytest.mark.parametrize(
    ("flags", "payload", "inside"),
    [
        (0, b"\x02abc", b"\x02abc"),
        (PADDED, b"\x00abc", b"abc"),
        (PADDED, b"\x02abc\0\0", b"abc"),
        (PADDED, b"\x02\0\0", b""),
        (PADDED, b"\x00", b""),
        (PADDED, b"", None),
        (PADDED, b"\x01", None),
        (PADDED, b"\x04abc", None),
    ],
)
def test_padding_is_taken_off(flags: int, payload: bytes, inside: bytes | None) -> None:
    """Unless there is more of it than there is payload."""
    if inside is not None:
        assert unpadded(flags, payload) == inside
        return
    with pytest.raises(Http2Error, match="more padding than payload"):
        unpadded(flags, payload)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", None),
        (setting(SettingId.WINDOW, 2**31 - 1) + setting(SettingId.FRAME, 16384) + setting(99, 2**32 - 1), None),
        (setting(SettingId.PUSH, 0) * 64, None),
        (bytes(5), ErrorCode.FRAME_SIZE_ERROR),
        (setting(SettingId.PUSH, 0) * 65, ErrorCode.ENHANCE_YOUR_CALM),
        (setting(SettingId.PUSH, 2), ErrorCode.PROTOCOL_ERROR),
        (setting(SettingId.WINDOW, 2**31), ErrorCode.FLOW_CONTROL_ERROR),
        (setting(SettingId.FRAME, 16383), ErrorCode.PROTOCOL_ERROR),
        (setting(SettingId.FRAME, 2**24), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_settings_within_their_ranges_are_read(payload: bytes, code: ErrorCode | None) -> None:
    """Unknown ones too; a wrong one ends the connection with the code that RFC 9113 names."""
    if code is None:
        assert len(list(read_settings(payload))) == len(payload) // 6
        return
    with pytest.raises(Http2Error) as caught:
        list(read_settings(payload))
    assert caught.value.code is code


def test_a_budget_refills_with_time_and_is_never_over_its_brim() -> None:
    """Three at once; two more each second; what is earned is capped."""
    budget = Budget(3, 2)
    assert [budget.pay(0.0) for _ in range(4)] == [True, True, True, False]
    assert [budget.pay(1.0), budget.pay(1.0)] == [True, False]
    budget = Budget(3, 2)
    budget.earn(100)
    assert [budget.pay(0.0) for _ in range(4)] == [True, True, True, False]
