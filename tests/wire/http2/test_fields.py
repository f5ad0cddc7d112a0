"""What a request's fields mean is the same whether its block, its plan, or neither has been seen before."""

import uuid
from collections.abc import Mapping, Sequence
from typing import NoReturn

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import frames as h2
from tests.effort import runs

from tailcut.wire.http2.fields import Field, FieldReading, HeaderBlocks, MalformedError, check_request

Head = tuple[tuple[Field, ...], dict[bytes, bytes]]


def oversized(_fields: Sequence[Field]) -> NoReturn:
    raise AssertionError


def reading() -> FieldReading[Head]:
    """Of one field beside those of HTTP/2, with one that varies."""

    def head(plan: Sequence[Field], varying: Mapping[bytes, bytes]) -> Head:
        return tuple(plan), dict(varying)

    return FieldReading(tuple, head, oversized, frozenset({b"content-type"}), frozenset({b"grpc-timeout"}))


SHARED = reading()  # by all examples, so that each finds plans of others
NAMES = [b":method", b":scheme", b":path", b":authority", b":status", b"te", b"host", b"connection", b"content-length"]
NAMES += [b"content-type", b"grpc-timeout", b"x-id", b"x-other", b"X-Upper", b"", b"sp ace"]
VALUES = [b"POST", b"http", b"/a", b"/b", b"", b"x", b" x", b"x\0y", b"trailers", b"5", b"7", b"1S", b"h:80", b"h"]
ORDINARY = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"content-type", b"x"), (b"x-id", b"x")]


@st.composite
def field_lists(draw: st.DrawFn) -> list[Field]:
    """An ordinary request with some fields added, dropped, or changed."""
    fields = list(ORDINARY)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(fields)))
        fields.insert(at, (draw(st.sampled_from(NAMES)), draw(st.sampled_from(VALUES))))
    if draw(st.booleans()):
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    return fields


def is_request(fields: Sequence[Field], lengths: set[bytes]) -> bool:
    try:
        check_request(fields)
    except MalformedError:
        return False
    return len(lengths) < 2 and all(value.isdigit() for value in lengths)


def first_values(fields: Sequence[Field], name: bytes) -> list[bytes]:
    return [value for other, value in fields if other == name][:1]


@settings(deadline=None, max_examples=runs(120))
@given(st.lists(field_lists(), min_size=1, max_size=4))
def test_each_request_is_checked_as_if_it_were_the_first(requests: list[list[Field]]) -> None:
    """A plan that is known stands for the fields that it depends on, and for nothing else of a request."""
    encoder, blocks = hpack.Encoder(), HeaderBlocks(SHARED)
    for fields in requests:
        block = encoder.encode(fields)
        lengths = {value for name, value in fields if name == b"content-length"}
        if not is_request(fields, lengths):
            with pytest.raises(MalformedError):
                blocks.request(block)
            continue
        (plan, varying), length = blocks.request(block)
        assert (plan, varying) == HeaderBlocks(reading()).request(hpack.Encoder().encode(fields))[0]
        assert length == int(next(iter(lengths), -1))
        assert first_values(plan, b"content-type") == first_values(fields, b"content-type")
        assert list(varying.values()) == first_values(fields, b"grpc-timeout")


def test_a_request_id_and_a_deadline_leave_the_plan_as_it_is() -> None:
    """With and without indexing: a client's thousand calls are one plan."""
    made: list[object] = []

    def plan(fields: Sequence[Field]) -> object:
        made.append(fields)
        return object()

    names = frozenset({b"content-type", b"user-agent", b"accept"})
    read = FieldReading(
        plan, lambda plan, varying: (plan, varying[b"grpc-timeout"]), oversized, names, frozenset({b"grpc-timeout"})
    )
    encoder, blocks = hpack.Encoder(), HeaderBlocks(read)
    heads = []
    for number in range(1000):
        fields = h2.fields(grpc_timeout=f"{number}m", x_request_id=str(uuid.uuid4()))
        sent = fields if number % 2 else [hpack.NeverIndexedHeaderTuple(*field) for field in fields]
        (item, timeout), _ = blocks.request(encoder.encode(sent))
        assert timeout == b"%dm" % number
        heads.append(item)
    assert len(made) == 1
    assert len(set(heads)) == 1


def test_a_block_is_known_for_as_long_as_the_table_is_as_it_was() -> None:
    """The same bytes mean something else after another entry has come."""
    blocks = HeaderBlocks(reading())
    start = b"\x83\x86\x44\x02/a"  # method, scheme, and a path that is indexed
    blocks.request(start + b"\x40\x01a\x01x")
    same = b"\x83\x86\x44\x02/b\xbf"
    with pytest.raises(MalformedError):
        blocks.request(b"\x83\x86\x04\x02/c\xbf")  # the path again, behind the path
    first, _ = blocks.request(b"\x83\x86\xbf")
    assert (b":path", b"/a") in first[0]
    assert blocks.request(b"\x83\x86\xbf")[0] is first
    blocks.request(same[:-1])
    with pytest.raises(MalformedError):
        blocks.request(b"\x83\x86\xbf")  # which is `a: x` by now
