"""Outlines of heads: what fits one means the same, and what is kept of them is bounded."""

import random
import string

from tests.wire.http1.test_head import USUAL, message

from tailcut.wire.http1.events import Edition
from tailcut.wire.http1.head import Head, parse_head, significant
from tailcut.wire.http1.outlines import MOST_FIELDS, Outline, OutlineMemo


class Meaning:
    """What a head means to these tests."""

    def __init__(self, head: bytes) -> None:
        self.head: Head = parse_head(head)
        self.length = 0
        self.edition = Edition()


def outline_of(head: bytes) -> Outline[Meaning]:
    return Outline(head, Meaning(head))


def test_an_outline_fits_heads_with_the_same_significant_part() -> None:
    """Each byte of a head replaced by each other one, and values by others of their length."""
    outline, known, fitting = outline_of(USUAL), significant(USUAL), 0
    assert outline.fits(USUAL)
    for at in range(len(USUAL)):
        for code in range(256):
            data = USUAL[:at] + bytes([code]) + USUAL[at + 1 :]
            if outline.fits(data):
                fitting += 1
                assert significant(data) == known, data
    others = USUAL.replace(b"7b2d6ce2", b"12345678").replace(b"Accept: */*", b"Accept: a/b")
    assert fitting > 2000
    assert outline.fits(others)
    for wrong in (b"1234\r\n78", b"1\r\nA:b78", b"12345\r78", b"12345\n78", b"12\x0045678"):
        assert not outline.fits(USUAL.replace(b"7b2d6ce2", wrong[:8]))


def test_an_outline_is_looked_for_where_a_head_may_begin() -> None:
    """In what was received, whatever stands before and behind."""
    outline, received = outline_of(USUAL), bytearray(b"body of the last" + USUAL + b"\r\n\r\n: body")
    assert outline.length == len(USUAL)
    assert [at for at in range(len(received) - len(USUAL)) if outline.fits(received, at)] == [16]


def test_an_outline_of_a_head_without_other_fields() -> None:
    """It is the head itself."""
    plain = message("Content-Length: 3")
    assert outline_of(plain).fields == 0
    assert outline_of(plain).fits(plain)
    assert not outline_of(plain).fits(message("Content-Length: 4"))


def test_a_head_is_found_by_its_outline() -> None:
    """With what it means; clients whose heads are equally long by chance do not displace each other."""
    memo: OutlineMemo[Meaning] = OutlineMemo()
    heads = [message("Content-Length: 3", f"X-{name}: 10") for name in ("A", "B", "C")]
    assert memo.find(heads[0]) is None
    first, second = (memo.learn(head, Meaning(head)) for head in heads[:2])
    for head, outline in zip(heads, (first, second, None), strict=True):
        assert memo.find(head.replace(b"10", b"11")) is outline
    third = memo.learn(heads[2], Meaning(heads[2]))
    assert [memo.find(head) for head in heads] == [None, second, third]
    memo.clear()
    assert memo.find(heads[1]) is None


def test_heads_of_many_fields_have_no_outline() -> None:
    """It would take several times the memory of the head."""
    memo: OutlineMemo[Meaning] = OutlineMemo()
    for count, learned in ((MOST_FIELDS, True), (MOST_FIELDS + 1, False)):
        head = message(*(f"{name}: 1" for name in string.ascii_letters[:count]))
        assert (memo.learn(head, Meaning(head)) is not None) is learned
        assert (memo.find(head) is not None) is learned


def test_256_outlines_are_kept_at_most() -> None:
    """However many heads come; the last one is among them."""
    memo: OutlineMemo[Meaning] = OutlineMemo()
    numbers = random.Random(1)
    heads = [
        message(f"X-{number}: {'x' * numbers.randrange(200)}", start=f"POST /{number % 40} HTTP/1.1")
        for number in range(2000)
    ]
    for number, head in enumerate(heads):
        memo.learn(head, Meaning(head))
        assert memo.find(head) is not None
        if number % 100 == 0:
            assert sum(memo.find(before) is not None for before in heads[:number]) <= 256
