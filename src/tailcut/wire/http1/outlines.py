"""Heads that differ only in the values of fields that mean nothing here: a quick look tells that they mean the same.

Ids of requests and traces change with every request, and mostly nothing else does. What one head has in the places of
all other bytes is its outline; comparing that takes a tenth of the regular expression that leaves such fields out.
"""

import re
from struct import Struct
from typing import Generic

import msgspec

from tailcut.wire.http1.events import H
from tailcut.wire.http1.grammar import TEXT
from tailcut.wire.http1.head import OTHER_FIELDS
from tailcut.wire.memo import BytesMemo

MOST_FIELDS = 16  # that mean nothing: heads with more of them have no outline, which would take several times the head
_is_text = re.compile(TEXT).fullmatch
_NO_TEXT = bytes(_is_text(bytes([code])) is None for code in range(256))  # of each byte: whether no value may have it
_KEYS = 128
_ALIKE = 2  # outlines of one key: of clients whose heads are equally long by chance


class Outline(Generic[H]):
    """A head without the values of its fields that mean nothing here: a quick look at another one.

    A head that fits has the same lines, of the same lengths, and in the places of those values nothing but what a
    value may have. So it has the same `significant` part, and means the same. It says nothing of a head that does not
    fit.

    Args:
        head: well-formed, with no more fields than may be.
        meaning: of the head.
    """

    __slots__ = ("_pieces", "_pieces_of", "_text", "_values_of", "length", "meaning")

    def __init__(self, head: bytes, meaning: H) -> None:
        self.meaning = meaning
        self.length = len(head)
        pieces, values, at = "", "", 0
        for field in OTHER_FIELDS.finditer(head):
            start, end = field.span(1)
            pieces += f"{start - at}s{end - start}x"
            values += f"{start - at}x{end - start}s"
            at = end
        self._pieces_of = Struct(f"{pieces}{len(head) - at}s").unpack_from  # what stays the same
        self._values_of = Struct(f"{values}{len(head) - at}x").unpack_from  # and the values between
        self._pieces = self._pieces_of(head)
        self._text = bytes(sum(map(len, self._values_of(head))))

    def fits(self, data: bytes | bytearray, at: int = 0) -> bool:
        """Whether a head of `length` bytes has this outline; all of it is in `data`, from `at` on."""
        if self._pieces_of(data, at) != self._pieces:
            return False
        return b"".join(self._values_of(data, at)).translate(_NO_TEXT) == self._text

    @property
    def fields(self) -> int:
        """How many fields there are that mean nothing."""
        return len(self._pieces) - 1


class Interpretation(msgspec.Struct, Generic[H], gc=False):
    """What a head means, and the outline of heads that mean the same, where one is known."""

    meaning: H
    outline: Outline[H] | None = None


class OutlineMemo(Generic[H]):
    """The outlines that the connections of one loop share: 256 at most, of heads of at most MOST_FIELDS such fields."""

    __slots__ = ("_kept", "clear")

    def __init__(self) -> None:
        self._kept: BytesMemo[tuple[int, bytes], tuple[Outline[H], ...]] = BytesMemo(_KEYS)
        self.clear = self._kept.clear

    def find(self, head: bytes) -> Outline[H] | None:
        """The outline that a whole head fits; None where there is none."""
        for outline in self._kept.get(_key(head), ()):
            if outline.fits(head):
                return outline
        return None

    def learn(self, head: bytes, meaning: H) -> Outline[H] | None:
        """Keep the outline of a good head, in place of an older one with its length and request line where need be."""
        outline = Outline(head, meaning)
        if outline.fields > MOST_FIELDS:
            return None
        key = _key(head)
        self._kept.keep(key, (outline, *self._kept.get(key, ())[: _ALIKE - 1]))
        return outline


def _key(head: bytes) -> tuple[int, bytes]:
    return len(head), head[: head.find(b"\r")]
