"""Records of the stream: one encoder, and events that any reader of server-sent events takes apart."""

import msgspec
import pytest

from tailcut.live.records import About, DoctorFinding, End, Findings, Record, as_event, from_data

RECORDS: list[Record] = [
    End(reason="stopping"),
    Findings(checks=[DoctorFinding(name="a", severity="note", finding="x\ny\u2028<b>", remedy=None)]),
    About(version="1", pid=4, slo_ms=None, queue_rows=None, models=[], models_left_out=0),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_there_and_back(record: Record) -> None:
    """An event has its kind as its name, and its data on one line, whatever is in it."""
    event = as_event(record)
    name, data, *rest = event.split(b"\n")
    assert rest == [b"", b""]
    assert name == b"event: " + type(record).__name__.lower().encode()
    assert from_data(data.removeprefix(b"data: ")) == record


@pytest.mark.parametrize("data", [b"", b"{}", b'{"event":"other"}', b'{"event":"end","reason":"x"}', b"[1]"])
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        from_data(data)
