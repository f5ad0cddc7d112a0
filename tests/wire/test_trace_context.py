"""W3C Trace Context: what is read, what is as if it were not there, and what is passed on."""

import pytest

from tailcut.wire.trace_context import (
    TraceContext,
    fields_of,
    may_be_sampled,
    of_head,
    read_context,
    read_state,
    sampling_of,
    written,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),  # and random, by level 2
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"01-{TRACE}-{SPAN}-01", True),  # a later version
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
        (f"cc-{TRACE}-{SPAN}-00-", False),
    ],
)
def test_a_context_is_read(value: str, sampled: bool) -> None:
    """Its ids, and the flag that says whether the caller is traced; of later versions, what this one has."""
    assert read_context(value.encode()) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-1",
        GOOD[:-1],
        f"{GOOD} ",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        GOOD.upper(),
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0X",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 has no more
        f"cc-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-011",
        f"{GOOD}\u00e9",
    ],
)
def test_a_malformed_context_is_none(value: str) -> None:
    """Nothing of it is used, nor of the state beside it."""
    assert read_context(value.encode(), [b"a=1"]) is None


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1 , b=2\t", " c=3"], "a=1,b=2,c=3"),
        (["a=1,,b=2", "", ","], "a=1,b=2"),
        (["tenant@vendor=x y,0k@v=1,a_-*/=~"], "tenant@vendor=x y,0k@v=1,a_-*/=~"),
        ([",".join(f"k{number}=1" for number in range(32))], ",".join(f"k{number}=1" for number in range(32))),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["1a=1"], ""),
        (["a="], ""),
        (["a=1=2"], ""),
        (["a=\u00e9"], ""),
        (["a"], ""),
        (["a b=1"], ""),
        ([f"{'k' * 257}=1"], ""),
        ([f"a={'v' * 257}"], ""),
        ([f"{'k' * 241}@{'v' * 15}=1"], ""),
        ([f"a={'v' * 200},b={'v' * 100},c={'v' * 120},d={'v' * 100},e={'v' * 100}"], None),
    ],
    ids=str,
)
def test_the_state_is_passed_on_or_given_up(fields: list[str], state: str | None) -> None:
    """As one list; with one malformed member, none of it. Over 512 characters, long members go first, then the last."""
    got = read_state([field.encode("latin-1") for field in fields])
    if state is None:
        assert [member[:2] for member in got.split(",")] == ["b=", "c=", "d=", "e="]
        return
    assert got == state
    assert read_context(GOOD.encode(), [field.encode("latin-1") for field in fields]) == TraceContext(
        TRACE, SPAN, True, state
    )


def test_too_many_short_members_lose_the_last() -> None:
    """What is left is 512 characters at most."""
    got = read_state([",".join(f"{key}={'v' * 30}" for key in "abcdefghijklmnopqrstu").encode()])
    assert len(got) <= 512
    assert got.startswith("a=")
    assert got.count(",") == 14


@pytest.mark.parametrize(
    ("lines", "context"),
    [
        ([f"traceparent: {GOOD}"], TraceContext(TRACE, SPAN, True)),
        (
            [f"TraceParent:{GOOD}", "TRACESTATE: a=1", "Host: y", "tracestate:\tb=2 "],
            TraceContext(TRACE, SPAN, True, "a=1,b=2"),
        ),
        ([f"X-Traceparent: {GOOD}"], None),
        ([f"X: traceparent: {GOOD}"], None),
        ([f"traceparent: {GOOD}", f"traceparent: {GOOD}"], None),
        (["tracestate: a=1"], None),
        ([], None),
    ],
    ids=str,
)
def test_the_head_of_a_request(lines: list[str], context: TraceContext | None) -> None:
    """Names in any case; a repeated context is none. What is kept of a long head says the same."""
    head = "\r\n".join(["POST /traceparent: HTTP/1.1", "Host: x", *lines, "", ""]).encode()
    assert of_head(head) == context
    assert of_head(fields_of(head)) == context
    assert may_be_sampled(head) >= (context is not None)
    assert not may_be_sampled(head.replace(b"-01", b"-00"))
    assert may_be_sampled(head.replace(b"-01", b"-01-more")) == may_be_sampled(head)
    assert sampling_of(head) == (context is not None)
    assert sampling_of(head.replace(b"-01", b"-00")) == -(context is not None)


def test_what_is_written_is_read() -> None:
    """A client's own context."""
    for sampled in (True, False):
        assert read_context(written(TRACE, SPAN, sampled=sampled).encode()) == TraceContext(TRACE, SPAN, sampled)
