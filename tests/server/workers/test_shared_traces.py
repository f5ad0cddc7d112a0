"""Traces of several worker processes: whichever is asked knows every request and every event, also of the dead."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.workers.test_supervisor import REQUEST, workers
from tests.servers import Server, raw_request, serving, until

from tailcut.lab.explain import trace_events, watch, while_doing
from tailcut.lab.load import LoadTarget
from tailcut.report.explain import explain_markdown
from tailcut.report.html import render_explain_html
from tailcut.runtime.tracing.timeline import FIELDS
from tailcut.server.workers.shared_traces import TraceRegion

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
TAIL = b"GET /v2/models/mlp/tail HTTP/1.1\r\nHost: x\r\n\r\n"


def send(server: Server, count: int, connections: int = 8) -> None:
    """So many requests, in turn over connections that are open at once."""
    wires = [server.connect() for _ in range(connections)]
    for number in range(count):
        assert wires[number % connections].ask(REQUEST).status == 200
    for wire in wires:
        wire.sock.close()


def tail(server: Server) -> dict:
    with server.connect() as wire:
        return wire.ask(TAIL).json()


def records_since(server: Server, cursor: str) -> dict:
    with server.connect() as wire:
        return wire.ask(f"GET /v2/models/mlp/trace/{cursor} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).json()


def kill_and_send(server: Server, victim: int) -> int:
    """Kill a worker and send requests until the one that follows it has answered some; how many were sent."""
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers(server)) == 2 and victim not in workers(server), server)
    return send_to_all(server)


def send_to_all(server: Server) -> int:
    """Requests until every worker has answered some; how many were sent."""
    sent = 0

    def have_all() -> bool:
        nonlocal sent
        send(server, 16)
        sent += 16
        return set(workers(server)) <= {item["process"] for item in tail(server).get("processes", ())}

    until(have_all, server)
    return sent


@pytest.fixture(scope="module")
def fleet(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers of three models, for tests that leave two workers."""
    path = models / "mlp.onnx"
    with serving(tmp_path_factory.mktemp("fleet"), path, f"a={path}", f"b={path}", "--workers", "2") as server:
        yield server
        assert server.stop() == 0


@pytest.mark.slow
def test_whoever_is_asked_answers_for_all(fleet: Server) -> None:
    """Two workers' requests add up in every answer; a third that follows a killed one adds to what that one left."""
    first, sent = workers(fleet), tail(fleet)["requests"]
    sent += send_to_all(fleet)
    until(lambda: tail(fleet)["requests"] == sent, fleet)  # the last ones' records follow their answers
    answers = [tail(fleet) for _ in range(8)]
    assert {answer["requests"] for answer in answers} == {sent}
    before = {answer["process"] for answer in answers[0]["processes"]}
    assert before >= set(first)
    sent += kill_and_send(fleet, first[0])
    until(lambda: tail(fleet)["requests"] == sent, fleet)
    answers = [tail(fleet) for _ in range(8)]
    assert {answer["requests"] for answer in answers} == {sent}
    by_process = {answer["process"]: answer["requests"] for answer in answers[0]["processes"]}
    assert set(by_process) == {*before, *workers(fleet)}
    assert sum(by_process.values()) == sent


@pytest.mark.slow
def test_a_trace_is_read_to_its_end_once(fleet: Server) -> None:
    """Poll by poll, over workers that change: each request comes once, by its process, and none is missed."""
    seen: Counter[tuple[int, ...]] = Counter()
    sent, before = 0, tail(fleet)["requests"]
    before += send_to_all(fleet)
    until(lambda: tail(fleet)["requests"] == before, fleet)
    cursor = records_since(fleet, "-1")["next"]
    for number in range(6):
        if number == 3:
            sent += kill_and_send(fleet, workers(fleet)[1])
        send(fleet, 40)
        sent += 40
        while seen.total() < sent:
            piece = records_since(fleet, cursor)
            assert (piece["fields"], piece["missed"]) == (list(FIELDS), 0)
            cursor = piece["next"]
            seen.update(map(tuple, piece["records"]))
    assert (len(seen), seen.total()) == (sent, sent)
    assert len({record[-1] for record in seen}) == 3
    assert len(records_since(fleet, "0")["records"]) == sent + before


@pytest.mark.slow
def test_two_models_keep_apart(fleet: Server) -> None:
    """Each model of the command line has traces of its own at every worker."""
    with fleet.connect() as wire:
        for name, count in (("a", 3), ("b", 5)):
            for _ in range(count):
                assert wire.ask(raw_request(name, bytes(16))).status == 200
        for name, count in (("a", 3), ("b", 5)):
            answer = wire.ask(f"GET /v2/models/{name}/tail HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.json()["requests"] == count


def test_the_command_tells_workers_apart(fleet: Server) -> None:
    """Text, page and trace events of a service of two processes name both."""
    pids = set(workers(fleet))
    send_to_all(fleet)
    target = LoadTarget(port=fleet.port)
    result = while_doing(lambda: send(fleet, 600, 16), lambda: watch(target, "mlp", 0.6))
    assert (result.missed, {process.process for process in result.processes}) == (0, pids)
    for written in (explain_markdown(result), render_explain_html(result)):
        assert all(f"process {pid}: " in written for pid in pids)
    traced = trace_events(result)["traceEvents"]
    named = {event["pid"] for event in traced if event["name"] == "process_name"}
    assert named == {entry.process for entry in result.worst} == {event["pid"] for event in traced}
    assert named <= pids


def test_places_do_not_touch() -> None:
    """What is written at one place, of one model, is in that ring alone, and every worker reads it there."""
    region = TraceRegion.make(3, 2)
    opened = [region.open(place) for place in (1, 2, 3)]
    for index, traces in enumerate(opened, 1):
        traces.own_events.add("gc", index, 2 * index)
        for model, timelines in enumerate(traces.timelines):
            for number in range(100):
                timelines[traces.own].record(*[1000 * index + 10 * model] * 11, number)
    for traces in opened:
        assert [events.since(0)[0].start_ns for events in traces.events] == [1, 2, 3]
        for model, timelines in enumerate(traces.timelines):
            heads = [set(timeline.copy()[0][:, 0].tolist()) for timeline in timelines]
            assert heads == [{1000 * place + 10 * model} for place in (1, 2, 3)]
    region.close()
