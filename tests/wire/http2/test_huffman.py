"""The Huffman code of HPACK, held against another implementation of it."""

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from tailcut.wire.http2.huffman import HuffmanError, decode

encode = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode


def test_every_symbol() -> None:
    """Alone, and twice, behind a code of each length: so that it begins at each bit of a byte."""
    for before in (b"", b"0", b"%", b":", b"&", b"!", b"\\", b"#"):
        for symbol in range(256):
            text = before + bytes([symbol]) * 2
            assert decode(encode(text)) == text


@given(st.binary(max_size=60))
def test_any_text(text: bytes) -> None:
    """What another one encodes, ours decodes."""
    assert decode(encode(text)) == text


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    """Bytes that are no text are refused where another one refuses them, and mean the same where it does not."""
    try:
        text = decode(data)
    except HuffmanError:
        with pytest.raises(Exception, match="Huffman"):
            decode_huffman(data)
    else:
        assert decode_huffman(data) == text


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",  # eight ones are no padding
        b"\x1f\xff",
        b"\x18",  # `a` and padding of other bits
        b"\xff\xff\xff\xff",  # the end, spelt out
        b"\xff\xff\xff\xfc",
    ],
)
def test_what_does_not_end(data: bytes) -> None:
    """Padding is the first bits of the end's code, seven at most, and the end itself is never sent."""
    with pytest.raises(HuffmanError):
        decode(data)
