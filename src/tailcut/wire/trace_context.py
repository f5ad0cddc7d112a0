"""The W3C trace context of a request: the fields `traceparent` and `tracestate`, read from bytes. Pure.

By W3C Trace Context, level 1 (2021) and, for flags, level 2. Malformed fields are ignored: an invalid or repeated
`traceparent` together with `tracestate`, an invalid `tracestate` alone.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_FIELD = re.compile(rb"^(traceparent|tracestate):[ \t]*([^\r\n]*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_PARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = re.compile(rf"({_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_PARENT_FIELD = b"\ntraceparent:"
_PARENT_BYTES, _ODD_DIGITS = 55, b"13579bdf"
_MEMBERS_MOST = 32
_STATE_MOST = 512  # characters that are passed on: the minimum of section 3.3.1.5
_MEMBER_LONG = 128  # longer members are dropped first where there is not enough room
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A trace context; ids are lower-case hexadecimal digits, 32 of the trace and 16 of the caller's span."""

    trace_id: str
    parent_id: str
    sampled: bool
    state: str = ""  # `tracestate`, to be passed on

    @property
    def ids(self) -> dict[str, str]:
        """The ids under the names that log lines use."""
        return {"trace_id": self.trace_id, "parent_id": self.parent_id}


def read_context(traceparent: bytes, tracestate: Sequence[bytes] = ()) -> TraceContext | None:
    """The context in a `traceparent` and its `tracestate` fields, in their order; None where it is malformed.

    In later versions than 00, everything behind the flags is ignored (section 4).
    """
    match = _PARENT.fullmatch(traceparent)
    if match is None or (match[5] is not None and match[1] == b"00"):
        return None
    sampled = bool(int(match[4], 16) & _SAMPLED)
    return TraceContext(match[2].decode(), match[3].decode(), sampled, read_state(tracestate) if tracestate else "")


def read_state(fields: Sequence[bytes]) -> str:
    """All `tracestate` fields as one list of at most 512 characters; empty where a member is malformed."""
    members = [part.strip(" \t") for part in b",".join(fields).decode("latin-1").split(",")]
    members = [member for member in members if member]
    keys = [match[1] for match in map(_MEMBER.fullmatch, members) if match is not None]
    if len(keys) != len(members) or len(set(keys)) != len(keys) or len(keys) > _MEMBERS_MOST:
        return ""
    if sum(map(len, members)) + len(members) - 1 > _STATE_MOST:
        members = [member for member in members if len(member) <= _MEMBER_LONG]
        while sum(map(len, members)) + len(members) - 1 > _STATE_MOST:
            members.pop()
    return ",".join(members)


def of_head(head: bytes) -> TraceContext | None:
    """The context in the head of an HTTP/1 request; None where it has none, a malformed one or several.

    Most are not sampled, and must cost little: a regular expression over the whole head would take 4 us. For these,
    `tracestate` is not read, because nothing is passed on.
    """
    lowered = head.lower()
    at = lowered.find(_PARENT_FIELD)
    if at < 0 or lowered.find(_PARENT_FIELD, at + 1) >= 0:
        return None
    context = read_context(head[at + len(_PARENT_FIELD) : head.index(b"\r", at)].strip(b" \t"))
    if context is None or not context.sampled or b"\ntracestate:" not in lowered:
        return context
    state = read_state([value for name, value in _FIELD.findall(head) if len(name) == len(b"tracestate")])
    return context._replace(state=state)


def may_be_sampled(head: bytes) -> bool:
    """Whether `of_head` may find a sampled context; the check takes only half a microsecond."""
    at = head.lower().find(_PARENT_FIELD)
    if at < 0:
        return False
    value = head[at + len(_PARENT_FIELD) : head.index(b"\r", at)].strip(b" \t")
    return len(value) != _PARENT_BYTES or value[-1] in _ODD_DIGITS


def fields_of(head: bytes) -> bytes:
    """The fields that `of_head` reads, from a head that is too long to be kept."""
    return b"".join(b"\n%b: %b\r" % field for field in _FIELD.findall(head))


def sampling_of(head: bytes) -> int:
    """1 where the context in a head is sampled, -1 where it is not, 0 where there is none."""
    context = of_head(head)
    return 0 if context is None else 1 if context.sampled else -1


def written(trace_id: str, span_id: str, *, sampled: bool) -> str:
    """A `traceparent`."""
    return f"00-{trace_id}-{span_id}-{int(sampled):02x}"
