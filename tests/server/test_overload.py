"""What a real server does with requests that it cannot compute in time, while it has more than enough to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tests.server.test_grpc import method
from tests.servers import Answer, Server, json_request, raw_request, serving
from tests.soak.overload import make_profile

from tailcut.wire.grpc.messages import MESSAGES

BUSY = 32  # requests of a millisecond or more each, one at a time
ONE = bytes(1024)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that computes one row at a time, milliseconds each."""
    folder = tmp_path_factory.mktemp("overload")
    with serving(folder, make_profile(folder), "--grpc-port", "0") as running:
        yield running
        assert running.stop() == 0


@contextmanager
def busy(server: Server, body: bytes = ONE) -> Iterator[None]:
    """Meanwhile many requests wait, all of which are answered."""
    wires = [server.connect() for _ in range(BUSY)]
    for wire in wires:
        wire.send(raw_request("slow", body))
    looks = iter(range(1000))  # each is an answer
    while not server.metric("tailcut_queued_rows") and next(looks, None) is not None:
        pass
    yield
    for wire in wires:
        assert wire.read().status == 200
        wire.sock.close()


def ask(server: Server, request: bytes) -> Answer:
    with server.connect() as wire:
        return wire.ask(request)


def test_what_cannot_be_in_time_is_refused_before_its_body_is_there(server: Server) -> None:
    """503 to a head and half a body; the rest is read away, and the connection goes on."""
    request = raw_request("slow", ONE, "Tailcut-Timeout-Us: 100")
    with busy(server), server.connect() as wire:
        wire.send(request[:-512])
        refused = wire.read()
        wire.send(request[-512:])
        wire.send(raw_request("slow", ONE))
        answered = wire.read()
    assert refused.status == 503
    assert answered.status == 200


@pytest.mark.slow
def test_a_body_whose_turn_passed_while_it_arrived_is_refused(tmp_path: Path) -> None:
    """It was let in when nothing waited, and lent a row; with others computing at its end, 100 us are too few: 503."""
    body = bytes(4 * 16384)  # large enough to be received into its row
    with serving(tmp_path, make_profile(tmp_path, (16384, 64, 4096, 4096, 8))) as server, server.connect() as wire:
        request = raw_request("slow", body, "Tailcut-Timeout-Us: 100")
        wire.send(request[:-512])
        while server.metric("tailcut_rows_in_use") != 1:  # each look is an answer
            pass
        with busy(server, body):
            wire.send(request[-512:])
            assert wire.read().status == 503
        while server.metric("tailcut_rows_in_use"):
            pass
        assert wire.ask(raw_request("slow", body)).status == 200
        assert server.stop() == 0


def test_what_cannot_be_in_time_is_refused_before_it_is_parsed(server: Server) -> None:
    """A body of rubbish is 503 while too much waits, and 400 when it would be computed."""
    request = json_request("slow", "rubbish", "Tailcut-Timeout-Us: 100")
    with busy(server):
        assert ask(server, request).status == 503
    assert ask(server, request).status == 400


def test_a_large_message_that_cannot_be_in_time_is_refused_before_it_is_read(server: Server) -> None:
    """Rubbish over gRPC is UNAVAILABLE while too much waits, and what is wrong with it when it would be computed."""
    request = MESSAGES["ModelInferRequest"](model_name="slow", raw_input_contents=[bytes(1 << 20)])
    hasty = MESSAGES["ModelInferRequest"]()
    hasty.CopyFrom(request)
    hasty.parameters["timeout"].int64_param = 100

    def status(message: object) -> str:
        with pytest.raises(grpc.RpcError) as failed:
            infer(message)
        return str(failed.value.code().name)

    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        infer = method(channel, "ModelInfer")
        with busy(server):
            assert status(hasty) == "UNAVAILABLE"
            assert status(request) == "INVALID_ARGUMENT"
        assert status(hasty) == "INVALID_ARGUMENT"


def test_a_body_that_may_name_its_own_time_is_read_first(server: Server) -> None:
    """What it says counts more than what its head does."""
    with busy(server):
        assert ask(server, json_request("slow", '{"timeout": rubbish', "Tailcut-Timeout-Us: 100")).status == 400


def test_a_refusal_is_everybodys_with_the_same_head_and_nobody_elses(server: Server) -> None:
    """Hasty requests are refused and counted one by one; patient ones between them are answered."""
    hasty, patient = raw_request("slow", ONE, "Tailcut-Timeout-Us: 100"), raw_request("slow", ONE)
    before = server.metric("tailcut_refused_total")
    with busy(server), server.connect() as wire:
        wire.send(5 * hasty + patient)
        statuses = [wire.read().status for _ in range(6)]
    assert statuses == [503] * 5 + [200]
    assert server.metric("tailcut_refused_total") - before == 5
    assert ask(server, hasty[:-1] + b"\1").status in {200, 504}  # nothing waits any more: it is let in
