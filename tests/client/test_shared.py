"""Both clients with their tensors in shared memory, against real servers and against peers that misbehave."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import orjson
import pytest
from tests.client.peers import BUSY, HOLD, TIMEOUT_S, X, good, peer, reply
from tests.engines.models import identity, nonzero, perceptron, two_in_two_out
from tests.servers import Server, json_request, serving

import tailcut
from tailcut.client import Hedge
from tailcut.errors import (
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    ReleasedError,
    UnreachableError,
    UnsupportedError,
)
from tailcut.spec import DType

PREFIX = f"tailcut-client-{os.getpid()}-"
TAKEN = reply(200)
KILLED = """
import os, signal, sys
import numpy as np
import tailcut
client = tailcut.Client(sys.argv[1], shared_memory=sys.argv[2])
client.infer("mlp", {"x": np.zeros((1, 4), np.float32)})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that takes shared memory, over TCP and a Unix socket: mlp, echo (of any width), pair, words, where."""
    folder = tmp_path_factory.mktemp("shared")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    identity(DType.FP32, (None, None), folder / "echo.onnx")
    identity(DType.BYTES, (None, 2), folder / "words.onnx")
    two_in_two_out(folder / "pair.onnx")
    nonzero(folder / "where.onnx")
    sources = [folder / f"{name}.onnx" for name in ("mlp", "echo", "words", "pair", "where")]
    with serving(folder, *sources, "--shared-memory", PREFIX, "--uds", str(folder / "s")) as running:
        yield running, folder / "s"
        assert running.stop() == 0


@pytest.fixture
def server(sharing: tuple[Server, Path]) -> Iterator[Server]:
    """The server; after each test it knows no region, and none is in /dev/shm."""
    yield sharing[0]
    if files():  # of what is in a cycle
        gc.collect()
    assert files() == set()
    assert registered(sharing[0]) == set()


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, server: Server, sharing: tuple[Server, Path]) -> str:
    return server.url if request.param == "tcp" else f"unix:{sharing[1]}"


def files(prefix: str = PREFIX) -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(prefix)}


def registered(server: Server) -> set[str]:
    with server.connect() as wire:
        answer = wire.ask(b"GET /v2/systemsharedmemory/status HTTP/1.1\r\nHost: x\r\n\r\n")
    return {load["name"] for load in json.loads(answer.body)}


def regions(requests: list[bytes]) -> list[str]:
    """Whose region each of some requests names as the place of its first input."""
    bodies = [orjson.loads(request.partition(b"\r\n\r\n")[2]) for request in requests if b"/infer " in request]
    return [body["inputs"][0]["parameters"]["shared_memory_region"] for body in bodies]


def test_answers_are_the_same_and_nothing_is_left(make: type, url: str, server: Server) -> None:
    """Of growing and shrinking tensors, again and again; the region is one at a time, and gone with the client."""
    random = np.random.default_rng(0)
    with make(url, shared_memory=PREFIX) as client:
        for width in (4, 100_000, 10, 100_000, 0, 200_000, 4, 4):
            x = random.standard_normal((1, width)).astype(np.float32)
            y = client.infer("echo", {"x": x})["y"]
            np.testing.assert_array_equal(y, x)
            assert y.flags.writeable
            assert len(files()) == 1
            assert registered(server) == files()


def test_tensors_do_not_travel(make: type) -> None:
    """The first call of its kind gets its outputs in the body, to learn how large they are; later ones get a place."""
    text = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1]}]}
    text["outputs"][0]["parameters"] = {
        "shared_memory_region": "r",
        "shared_memory_offset": 64,
        "shared_memory_byte_size": 4,
    }
    with peer([TAKEN, good(3.0), reply(200, orjson.dumps(text)), TAKEN]) as result:
        with make(result.url, shared_memory=PREFIX) as client:
            assert client.infer("m", X)["y"] == 3.0
            assert client.infer("m", X)["y"] == 0.0  # nobody wrote there
            (name,) = files()
        register, first, second, unregister = result.requests
        assert orjson.loads(register.partition(b"\r\n\r\n")[2]) == {"key": f"/{name}", "offset": 0, "byte_size": 65536}
        assert X["x"].tobytes() not in first + second
        place = {"shared_memory_region": name, "shared_memory_offset": 0, "shared_memory_byte_size": 16}
        asked = orjson.loads(second.partition(b"\r\n\r\n")[2])
        assert asked["inputs"][0]["parameters"] == place
        place |= {"shared_memory_offset": 64, "shared_memory_byte_size": 4}
        assert asked["outputs"] == [{"name": "y", "parameters": place}]
        assert unregister.startswith(f"POST /v2/systemsharedmemory/region/{name}/unregister ".encode())
        assert files() == set()


def test_an_answer_stays_when_its_region_is_used_again(make: type, server: Server) -> None:
    """Arrays are the caller's own."""
    with make(server.url, shared_memory=PREFIX) as client:
        answers = [client.infer("echo", {"x": np.full((1, 9), value, np.float32)})["y"] for value in range(4)]
        assert [float(answer.sum()) for answer in answers] == [0.0, 9.0, 18.0, 27.0]


def test_several_tensors_and_strings(make: type, server: Server) -> None:
    """Two inputs and two outputs have places of their own; strings go by shared memory and come in the body."""
    with make(server.url, shared_memory=PREFIX) as client:
        for value in (1, 2, 3):
            a, b = (np.full((2, 4), number, np.float32) for number in (value, 10))
            both = client.infer("pair", {"a": a, "b": b})
            assert (both["total"] == value + 10).all()
            assert (both["difference"] == value - 10).all()
            (alone,) = client.infer("pair", {"a": a, "b": b}, outputs=["difference"]).values()
            assert (alone == value - 10).all()
            words = np.array([["a" * value, "\u00fc"]], object)
            assert client.infer("words", {"x": words})["y"].tolist() == [[b"a" * value, "\u00fc".encode()]]


def test_an_output_that_outgrows_its_place(make: type, server: Server) -> None:
    """Where values decide the size, a larger output than before is right too."""
    with make(server.url, shared_memory=PREFIX) as client:
        for count in (2, 2, 1, 8, 3, 8):
            x = np.zeros((4, 2), np.float32)
            x.reshape(-1)[:count] = 1
            assert client.infer("where", {"x": x})["where"].T.tolist() == np.argwhere(x).tolist()


def test_calls_at_the_same_time(server: Server) -> None:
    """Each has a region of its own, in threads and in a loop."""
    wrong: list[float] = []

    def work(number: int) -> None:
        for step in range(30):
            x = np.full((1, 1000), number * 100 + step, np.float32)
            if not (client.infer("echo", {"x": x})["y"] == x).all():
                wrong.append(number)

    async def gathered() -> None:
        async with tailcut.AsyncClient(server.url, shared_memory=PREFIX, connections=10) as client:
            inputs = [np.full((1, 1000), number, np.float32) for number in range(50)]
            for _ in range(2):
                answers = await asyncio.gather(*(client.infer("echo", {"x": x}) for x in inputs))
                assert all((answer["y"] == x).all() for answer, x in zip(answers, inputs, strict=True))
            assert len(files()) == 10

    with tailcut.Client(server.url, shared_memory=PREFIX) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert wrong == []
    asyncio.run(gathered())


@pytest.mark.slow
def test_a_server_that_was_started_anew(make: type, server: Server) -> None:
    """It knows no region any more; the call goes on with a new one."""
    with make(server.url, shared_memory=PREFIX) as client:
        x = np.ones((1, 4), np.float32)
        first = client.infer("mlp", {"x": x})["y"]
        client.infer("mlp", {"x": x})
        with server.connect() as wire:
            path = b"POST /v2/systemsharedmemory/unregister HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            assert wire.ask(path).status == 200
        np.testing.assert_array_equal(client.infer("mlp", {"x": x})["y"], first)
        assert registered(server) == files()


def test_mistakes_are_those_of_the_call(make: type, server: Server) -> None:
    """Typed as without shared memory, and the next call passes."""
    with make(server.url, shared_memory=PREFIX) as client:
        for _ in range(2):
            with pytest.raises(InvalidInputError, match=r"expected FP32 \[-1, 4\]"):
                client.infer("mlp", {"x": np.zeros((1, 5), np.float32)})
            with pytest.raises(NotFoundError, match="none"):
                client.infer("none", {"x": np.zeros((1, 4), np.float32)})
            assert client.infer("mlp", {"x": np.zeros((1, 4), np.float32)})["y"].shape == (1, 3)
        client.close()
        with pytest.raises(ReleasedError, match="closed"):
            client.infer("mlp", {"x": np.zeros((1, 4), np.float32)})
    with pytest.raises(InvalidInputError, match="prefix"):
        make(server.url, shared_memory="a/b")


@pytest.mark.slow
def test_a_server_that_takes_none_of_that_name(make: type, server: Server, tmp_path: Path) -> None:
    """One error that says what to do, and nothing is left in /dev/shm."""
    with make(server.url, shared_memory="other-") as client:
        with pytest.raises(UnsupportedError, match=f"starts with 'other-': .*must start with '{PREFIX}'"):
            client.infer("mlp", {"x": np.zeros((1, 4), np.float32)})
        assert client.ready()
    assert files("other-") == set()
    with (
        serving(tmp_path, perceptron([4, 3], tmp_path / "mlp.onnx")) as off,
        make(off.url, shared_memory=PREFIX) as client,
        pytest.raises(UnsupportedError, match="shared memory is off: start the server with --shared-memory PREFIX"),
    ):
        client.infer("mlp", {"x": np.zeros((1, 4), np.float32)})


def test_a_call_out_of_time_gives_its_region_up(make: type) -> None:
    """The server may still read and write there, so the next call has another."""
    with peer([TAKEN, HOLD], [TAKEN, TAKEN, good(2.0), TAKEN]) as result:
        with make(result.url, shared_memory=PREFIX) as client:
            with pytest.raises(DeadlineExceededError):
                client.infer("m", X, timeout_s=0.2)
            assert files() == set()
            assert client.infer("m", X)["y"] == 2.0
        first, second = regions(result.requests)
        assert first != second
        assert f"/region/{first}/unregister".encode() in result.requests[2]


def test_a_copy_that_lost_gives_its_region_up(make: type) -> None:
    """It may be computed later, and its outputs must not land in another call's."""
    with peer([TAKEN, HOLD], [good(2.0), TAKEN, TAKEN, BUSY, good(3.0), TAKEN]) as result:
        with make(result.url, shared_memory=PREFIX, hedge=Hedge(after_s=0.2, share=0.1)) as client:
            assert client.infer("m", X)["y"] == 2.0
            assert files() == set()
            assert client.infer("m", {"x": X["x"][:2]})["y"] == 3.0
            assert len(files()) == 1
        item, copy, two, again = regions(result.requests)
        assert item == copy != two == again


def test_a_server_that_is_gone(make: type) -> None:
    """The memory is released although the server cannot be notified."""
    with ExitStack() as stack:
        with peer([TAKEN, good(2.0)]) as result:
            client = stack.enter_context(make(result.url, shared_memory=PREFIX))
            assert client.infer("m", X)["y"] == 2.0
        assert len(files()) == 1
    assert files() == set()
    with make(result.url, shared_memory=PREFIX) as client:
        with pytest.raises((UnreachableError, DeadlineExceededError)):
            client.infer("m", X, timeout_s=0.1)
        assert files() == set()


@pytest.mark.slow
def test_a_client_that_is_dropped(server: Server) -> None:
    """Its memory goes with it, and the server forgets the region when another is registered."""
    x = np.zeros((1, 4), np.float32)
    client = tailcut.Client(server.url, shared_memory=PREFIX)
    client.infer("mlp", {"x": x})
    gone = weakref.ref(client)
    (left,) = files()
    del client
    gc.collect()
    assert gone() is None
    assert files() == set()
    assert registered(server) == {left}
    with tailcut.Client(server.url, shared_memory=PREFIX) as client:
        client.infer("mlp", {"x": x})
        assert registered(server) == files()


def test_a_client_that_is_killed(server: Server) -> None:
    """The next client with its prefix removes what it left, on both sides."""
    command = [sys.executable, "-c", KILLED, server.url, PREFIX]
    assert subprocess.run(command, check=False, timeout=TIMEOUT_S).returncode == -signal.SIGKILL
    assert len(files()) == 1
    with tailcut.Client(server.url, shared_memory=PREFIX) as client:
        assert files() == set()
        client.infer("mlp", {"x": np.zeros((1, 4), np.float32)})
        assert registered(server) == files()
        assert len(files()) == 1


def test_the_server_says_what_it_holds(server: Server) -> None:
    """A request by hand finds the region that a client has registered."""
    with tailcut.Client(server.url, shared_memory=PREFIX) as client:
        client.infer("mlp", {"x": np.ones((1, 4), np.float32)})
        (name,) = registered(server)
        place = {"shared_memory_region": name, "shared_memory_byte_size": 16}
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": place}
        with server.connect() as wire:
            text = json.loads(wire.ask(json_request("mlp", {"inputs": [entry]})).body)["outputs"][0]["data"]
        np.testing.assert_array_almost_equal(
            np.float32(text), client.infer("mlp", {"x": np.ones((1, 4), np.float32)})["y"].reshape(-1)
        )
