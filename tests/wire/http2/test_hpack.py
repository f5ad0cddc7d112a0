"""Our HPACK decoder beside the hpack library: the same fields of every block, and none where it has none."""

from collections.abc import Sequence

import hpack
import pytest
from hpack.table import HeaderTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.wire.http2.hpack import TABLE_BYTES, BlockError, Decoder, Field, OversizedError, TooManyFieldsError

LIMIT = 1 << 14
NAMES = st.sampled_from([b":path", b":method", b"te", b"grpc-timeout", b"x-id", b"user-agent"]) | st.binary(max_size=9)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=40) | st.just(b"POST") | st.just(bytes(4100))), max_size=6)
NEVER = st.booleans()  # whether a field is one that is never indexed


@settings(deadline=None, max_examples=runs(90), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(FIELDS, NEVER, st.booleans(), st.sampled_from([None, 0, 100, 500, TABLE_BYTES])), max_size=6))
def test_blocks_of_another_encoder(blocks: list[tuple[list[Field], bool, bool, int | None]]) -> None:
    """They depend on each other: entries are added, evicted, and named by index, and the table's size changes."""
    encoder, ours = hpack.Encoder(), Decoder(1 << 20, 1 << 20)
    for fields, never, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        sent = [hpack.NeverIndexedHeaderTuple(*field) for field in fields] if never else fields
        assert ours.decode(encoder.encode(sent, huffman=huffman)) == fields


def integer(value: int, bits: int, first: int, *, padding: int = 0) -> bytes:
    """A number as RFC 7541 section 5.1 writes it, with `padding` groups of nothing behind a long one."""
    full = (1 << bits) - 1
    if value < full:
        return bytes([first | value])
    groups, value = bytearray([first | full]), value - full
    while value >= 0x80 or padding:
        groups.append(0x80 | value & 0x7F)
        if value < 0x80:
            padding -= 1
        value >>= 7
    return bytes([*groups, value])


def string(draw: st.DrawFn) -> bytes:
    data = draw(st.binary(max_size=12))
    size = draw(st.just(len(data)) | st.just(len(data)) | st.integers(0, 300))
    return integer(size, 7, draw(st.sampled_from([0, 0x80])), padding=draw(st.sampled_from([0] * 6 + [1, 2, 6]))) + data


@st.composite
def hostile_block(draw: st.DrawFn) -> bytes:
    """Instructions with any index and size, right or wrong, cut anywhere."""
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        bits, first = draw(st.sampled_from([(7, 0x80), (6, 0x40), (5, 0x20), (4, 0x10), (4, 0x00)]))
        index = draw(st.integers(0, 75) | st.integers(0, 5000) | st.just(2**28) | st.just(2**40))
        parts.append(integer(index, bits, first, padding=draw(st.sampled_from([0] * 9 + [1, 5]))))
        if bits in {6, 4}:
            parts.append((string(draw) if not index else b"") + string(draw))
    block = b"".join(parts)
    return block[: draw(st.sampled_from([len(block)] * 4 + list(range(len(block) + 1))))]


class Reference:
    """The library's decoder, as it was used before there was one of our own."""

    def __init__(self) -> None:
        self.table = HeaderTable()
        self.decoder = hpack.Decoder(max_header_list_size=LIMIT)
        self.decoder.header_table = self.table

    def decode(self, block: bytes) -> list[Field] | None:
        try:
            return list(self.decoder.decode(block, raw=True))
        except (hpack.HPACKError, IndexError):
            return None


@settings(deadline=None, max_examples=runs(120), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(hostile_block() | st.binary(max_size=30), max_size=5))
def test_hostile_blocks(blocks: Sequence[bytes]) -> None:
    """What the library refuses is refused, and what is accepted means the same; so do later blocks, and the table."""
    ours, theirs = Decoder(LIMIT, LIMIT), Reference()
    for block in blocks:
        expected = theirs.decode(block)
        try:
            fields = ours.decode(block)
        except BlockError as error:
            fault = str(error)
        else:
            fault = ""
        if fault:
            # Longer numbers than any that can be right, and more changes of the table's size than make sense.
            assert expected is None or "too long" in fault or "changes the table's size" in fault
            return
        assert fields == expected
        assert list(reversed(ours._entries)) == list(theirs.table.dynamic_entries)
        assert ours._bytes == theirs.table._current_size


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"\x80", "index 0"),
        (b"\xbe", "not in the table"),
        (b"\xff\x80\x80\x80\x80\x00", "too long"),
        (b"\x00\x01a\x7f\xff\xff\xff\xff\x0f", "too long"),
        (b"\x00\x05abc", "cut short"),
        (b"\x40", "cut short"),
        (b"\x84\x20", "after a field"),
        (b"\x3f\xe2\x1f", "4097"),
        (b"\x20\x20\x20", "more than 2"),
        (b"\x00\x81\xff\x00", "invalid padding"),
    ],
)
def test_the_error_names_the_cause(block: bytes, words: str) -> None:
    """Each rule that a block can break."""
    with pytest.raises(BlockError, match=words):
        Decoder(LIMIT, LIMIT).decode(block)


def test_fields_over_the_limit() -> None:
    """One large entry of the table, named again and again, is stopped at the limit and not at the end."""
    decoder = Decoder(LIMIT, LIMIT)
    decoder.decode(b"\x40\x01a" + integer(4000, 7, 0) + bytes(4000))
    with pytest.raises(TooManyFieldsError):
        decoder.decode(b"\xbe" * LIMIT)


def test_fields_a_little_over_the_limit() -> None:
    """All are decoded, so that the table is that of the client; the fields up to the limit are known."""
    decoder = Decoder(100, 200)
    with pytest.raises(OversizedError) as caught:
        decoder.decode(b"\x40\x01a\x01b" * 5)
    assert (caught.value.fields, caught.value.dropped) == ([(b"a", b"b")] * 2, 3)
    assert decoder.decode(b"\xbe\xc2") == [(b"a", b"b")] * 2
    with pytest.raises(TooManyFieldsError):
        decoder.decode(b"\xbe" * 6)


def test_the_edition_tells_whether_the_table_is_as_it_was() -> None:
    """A block without indexing leaves it."""
    decoder = Decoder(LIMIT, LIMIT)
    decoder.decode(b"\x82\x00\x01a\x01b")
    assert decoder.edition == 0
    decoder.decode(b"\x40\x01a\x01b")
    decoder.decode(b"\x3f\x00")
    assert decoder.edition == 2
