"""HPACK (RFC 7541), the decoder: header blocks of one connection to fields, with their dynamic table. Pure.

It is our own because a client that indexes varying fields (a deadline, a request id) sends a new block with every call,
which no cache can know (docs/decisions/054-heads-of-grpc-calls.md has the cost). Any error in a block raises a
BlockError, after which the tables of both sides may differ.
"""

from tailcut.wire.http2.huffman import HuffmanError
from tailcut.wire.http2.huffman import decode as decode_huffman

Field = tuple[bytes, bytes]

TABLE_BYTES = 4096  # of the dynamic table, at most: the default size (RFC 9113 section 6.5.2), as we announce no other
ENTRY_BYTES = 32  # added to the size of a field's name and value (section 4.1)
_UPDATES = 2  # section 4.2: the smallest size and the last
_INTEGER_SHIFT = 21  # of the last byte of an integer, for numbers under 2**28
_STATIC: tuple[Field, ...] = (
    (b"", b""),  # there is no index 0
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
_FIRST = len(_STATIC)  # index of the newest entry of the dynamic table
_SIZES = tuple(ENTRY_BYTES + len(name) + len(value) for name, value in _STATIC)


class BlockError(Exception):
    """The block cannot be decoded: the dynamic tables of client and server may now differ."""


class TooManyFieldsError(BlockError):
    """The fields far exceed the limit; decoding has stopped, so the table is no longer known."""


class OversizedError(Exception):
    """The fields exceed the limit. All were decoded, so the table is known; `fields` has those up to the limit."""

    def __init__(self, fields: list[Field], dropped: int) -> None:
        super().__init__(f"{dropped} fields are over the limit")
        self.fields = fields
        self.dropped = dropped


class Decoder:
    """Decodes the blocks of one connection, in the order in which they came.

    Args:
        fields_bytes: the limit for the fields of one block, counted as in section 6.5.2 of RFC 9113.
        read_bytes: the limit up to which further fields are decoded, and then dropped.
    """

    __slots__ = ("_bytes", "_entries", "_fields_bytes", "_most_bytes", "_read_bytes", "_sizes", "edition")

    def __init__(self, fields_bytes: int, read_bytes: int) -> None:
        self._fields_bytes = fields_bytes
        self._read_bytes = read_bytes
        self._entries: list[Field] = []  # the dynamic table, the newest entry last
        self._sizes: list[int] = []  # of each entry
        self._bytes = 0
        self._most_bytes = TABLE_BYTES
        self.edition = 0  # how often the dynamic table has changed

    def decode(self, block: bytes) -> list[Field]:
        """Decode the fields of a block; those from a table are always the same objects.

        Raises:
            BlockError: it cannot be decoded, or far exceeds the limit.
            OversizedError: it exceeds the limit.
        """
        try:
            return self._decode(block, self._resize(block) if block and block[0] >> 5 == 1 else 0)
        except IndexError:  # the end of the block, or an index outside a table
            raise BlockError("a header block is cut short, or names a field that is not in the table") from None
        except HuffmanError as error:
            raise BlockError(f"a header block cannot be decoded: {error}") from None

    def _decode(self, block: bytes, at: int) -> list[Field]:  # noqa: C901, PLR0912  one loop over the fields
        fields: list[Field] = []
        entries, sizes, most, end = self._entries, self._sizes, self._fields_bytes, len(block)
        size = dropped = 0
        while at < end:
            first = block[at]
            at += 1
            if first >= 0x80:  # an indexed field, section 6.1
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, index)
                if index >= _FIRST:
                    field = entries[_FIRST - 1 - index]
                    size += sizes[_FIRST - 1 - index]
                elif index:
                    field = _STATIC[index]
                    size += _SIZES[index]
                else:
                    raise BlockError("a header block has a field of index 0")
            else:  # a literal, section 6.2: with, without, or never with indexing
                if first >> 5 == 1:
                    raise BlockError("a header block changes the table's size after a field")
                mask = 0x3F if first >= 0x40 else 0x0F
                index = first & mask
                if index == mask:
                    index, at = _integer(block, at, index)
                if index:
                    name = _STATIC[index][0] if index < _FIRST else entries[_FIRST - 1 - index][0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                field = name, value
                more = ENTRY_BYTES + len(name) + len(value)
                size += more
                if first >= 0x40:
                    self._add(field, more)
            if size > most:
                if size > self._read_bytes:
                    raise TooManyFieldsError(f"the fields of a request take more than {self._read_bytes} bytes")
                dropped += 1
                continue
            fields.append(field)
        if dropped:
            raise OversizedError(fields, dropped)
        return fields

    def _add(self, field: Field, size: int) -> None:
        """Section 4.4: an entry that is larger than the table leaves it empty."""
        self.edition += 1
        self._entries.append(field)
        self._sizes.append(size)
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._evict()

    def _evict(self) -> None:
        """Section 4.3: the oldest entries go first."""
        count, more, sizes = 0, self._bytes - self._most_bytes, self._sizes
        while more > 0:
            more -= sizes[count]
            count += 1
        self._bytes = self._most_bytes + more
        del self._entries[:count], sizes[:count]

    def _resize(self, block: bytes) -> int:
        """Apply the changes of the table's size that begin a block (section 6.3); returns where its fields begin."""
        at = count = 0
        while at < len(block) and block[at] >> 5 == 1:
            count += 1
            if count > _UPDATES:
                raise BlockError(f"a header block changes the table's size more than {_UPDATES} times")
            size = block[at] & 0x1F
            at += 1
            if size == 0x1F:
                size, at = _integer(block, at, size)
            if size > TABLE_BYTES:
                raise BlockError(f"the header table would have {size} bytes, over the limit of {TABLE_BYTES}")
            self.edition += 1
            self._most_bytes = size
            self._evict()
        return at


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """Section 5.1: a number whose prefix is full, continued in groups of 7 bits; and where it ends."""
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        if shift == _INTEGER_SHIFT:
            raise BlockError("a number in a header block is too long")
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Section 5.2: a string literal, and where it ends."""
    first = block[at]
    at += 1
    size = first & 0x7F
    if size == 0x7F:
        size, at = _integer(block, at, size)
    end = at + size
    if end > len(block):
        raise BlockError("a header block is cut short")
    text = block[at:end]
    return decode_huffman(text) if first >= 0x80 else text, end
