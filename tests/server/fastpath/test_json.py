"""JSON and binary tensors on the fast path: each answer is, byte for byte, that of a server which has none.

Both servers run in this process, and get the same bytes in turns.
"""

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from onnx import helper
from tests.effort import THOROUGH
from tests.engines.models import identity, save, value
from tests.server.fastpath.test_fastpath import Client, until
from tests.server.opened import OpenedModel
from tests.servers import json_request

from tailcut.runtime.model import Model
from tailcut.server.context import Context
from tailcut.server.fastpath.fastpath import FastPath
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.spec import DType

SHAPE = (1, 4, 4)
Story = Callable[[ServerState, Client, Client], Awaitable[None]]


def beside(story: Story, model: OpenedModel, *, dispatch: str = "inline", limits: ServerLimits | None = None) -> None:
    """Tell a story to a client of a server with a fast path, and to one of a server that has none."""

    async def tell(opened: Model, other: Model) -> None:
        states = []
        for each in (opened, other):
            context = Context(ModelRepository([ServedModel(each, "echo")]), ready=True)
            states.append(ServerState(context, limits or ServerLimits(), direct_bytes=65536))
        fast = states[0]
        fast.fast_path = FastPath.open(fast)
        clients = [await Client(state).connect() for state in states]
        await story(fast, *clients)
        for state, client in zip(states, clients, strict=True):
            client.close()
            state.close()
        await until(lambda: not fast.members and not opened.entry.scheduler.slab.in_use)

    with model.lent(dispatch) as opened, model.lent(dispatch, number=1) as other:
        uvloop.run(tell(opened, other))


async def same(request: bytes, *clients: Client) -> bytes:
    """The one answer of all servers; only their dates may differ."""
    answers = []
    for client in clients:
        await client.send(request)
        _, head, body = await client.read()
        answers.append((re.sub(rb"\r\nDate: [^\r]*", b"", head), body))
    assert len(set(answers)) == 1
    return answers[0][0] + b"\r\n\r\n" + answers[0][1]


async def settle(
    state: ServerState, *clients: Client, around: str = '{"inputs":[%s]}', request: bytes | None = None
) -> None:
    """Ask until the fast path is taken: a busy machine takes a few messages more."""
    for number in range(200):
        own = json_request("echo", body_of(text_of(numbers(number)), around=around))
        await same(request or own, *clients)
        if state.context.counts.fast_path:
            return
    raise AssertionError("the fast path was not taken")


def numbers(seed: int, dtype: type = np.float32) -> np.ndarray:
    """Numbers of all magnitudes, so that their texts have different lengths."""
    random = np.random.default_rng(seed)
    return (random.standard_normal(SHAPE) * 10.0 ** random.integers(-30, 30, SHAPE)).astype(dtype)


def text_of(array: np.ndarray, *, nested: bool = False) -> str:
    return json.dumps(array.tolist() if nested else array.reshape(-1).tolist())


def flat_body(width: int, data: str, rest: str = "") -> str:
    return f'{{"inputs":[{{"name":"x","shape":[1,{width}],"datatype":"FP32","data":{data}}}]{rest}}}'


def body_of(data: str, datatype: str = "FP32", around: str = '{"inputs":[%s]}') -> str:
    return around % f'{{"name":"x","shape":[1,4,4],"datatype":"{datatype}","data":{data}}}'


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedModel]:
    path = identity(DType.FP32, (None, *SHAPE[1:]), tmp_path_factory.mktemp("json") / "echo.onnx")
    with OpenedModel(path) as model:
        yield model


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "around",
    [
        '{"inputs":[%s]}',
        ' {"id": "q\\u00e9", "parameters":{"priority":2, "timeout": 1000000}, "inputs" : [ %s ] }\n',
        '{"inputs":[%s],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}',
    ],
    ids=["bare", "id and schedule", "binary answer"],
)
def test_lists_of_any_length_are_answered_the_same(echo: OpenedModel, around: str, nested: bool, dispatch: str) -> None:
    """Whatever digits the numbers have; after a few, the connection takes the fast path, and stays."""

    async def story(state: ServerState, *clients: Client) -> None:
        await settle(state, *clients, around=around)
        for number in range(30):
            array = numbers(number)
            request = json_request("echo", body_of(text_of(array, nested=nested), around=around), f"X-Id: {number}")
            answer = await same(request, *clients)
            if b"binary_data_size" in answer:
                assert answer.endswith(array.tobytes())
            else:
                got = json.loads(answer[answer.index(b"\r\n\r\n") :])["outputs"][0]["data"]
                np.testing.assert_array_equal(np.array(got, np.float32), array.reshape(-1))
            assert state.context.counts.fast_path == 1
        records = state.context.served("echo").timeline.table
        assert len(set(records[:30, 10].tolist())) > 3  # each with the length of its own body

    beside(story, echo, dispatch=dispatch)


@pytest.mark.parametrize("around", ['{"inputs":[%s]}', '{"id":"data","inputs":[%s],"parameters":{"data":1}}'])
def test_an_input_called_data_takes_it_too(tmp_path: Path, around: str) -> None:
    """The name of a tensor, an id and a parameter are no keys of lists."""

    async def story(state: ServerState, *clients: Client) -> None:
        for number in range(200):
            data = text_of(numbers(number).reshape(-1)[:4])
            entry = f'{{"name":"data","shape":[1,4],"datatype":"FP32","data":{data}}}'
            answer = await same(json_request("echo", around % entry), *clients)
            assert b" 200 OK" in answer
            if state.context.counts.fast_path:
                return
        raise AssertionError("the fast path was not taken")

    nodes = [helper.make_node("Identity", ["data"], ["y"])]
    ends = ([value(name, DType.FP32, (None, 4))] for name in ("data", "y"))
    with OpenedModel(save(tmp_path / "data.onnx", nodes, *ends)) as model:
        beside(story, model)


def test_a_schedule_that_is_none_is_refused_every_time(echo: OpenedModel) -> None:
    """The request is read without an error, and so is each one like it; what it asks for is wrong."""

    async def story(state: ServerState, *clients: Client) -> None:
        around = '{"inputs":[%s],"parameters":{"timeout":-1}}'
        for number in range(12):
            answer = await same(json_request("echo", body_of(text_of(numbers(number)), around=around)), *clients)
            assert b" 400 " in answer
        await settle(state, *clients)

    beside(story, echo)


GOOD = body_of(text_of(numbers(0)))


ODD = [
    body_of("[1,2,3]"),
    body_of(text_of(numbers(1))[:-1] + ",1]"),
    body_of(text_of(numbers(1)).replace(",", ",,", 1)),
    body_of(text_of(numbers(1)).replace("[", "[01,", 1)),
    body_of("[NaN" + ",1" * 15 + "]"),
    body_of("[1e400" + ",1" * 15 + "]"),
    body_of("[null" + ",1" * 15 + "]"),
    body_of('["a"' + ",1" * 15 + "]"),
    body_of("[0.1234567890123456789012" + ",-0" * 15 + "]"),
    body_of("[[" + text_of(numbers(1))[1:] + "]"),
    body_of("[" + "1," * 15 + '1],"data":[' + "2," * 15 + "2]"),
    body_of(text_of(numbers(1)) + ',"parameters":{"a":[1]}'),
    body_of(text_of(numbers(1)), "FP64"),
    body_of(text_of(numbers(1)), around='{"id":"other","inputs":[%s]}'),
    body_of(text_of(numbers(1)), around='{"inputs":[%s],"outputs":[{"name":"z"}]}'),
    body_of(text_of(numbers(1)))[:-1],
    body_of(text_of(numbers(1))) + "}",
    '{"inputs":[{"name":"x","shape":[2,4,4],"datatype":"FP32","data":' + text_of(np.ones(32)) + "}]}",
    body_of("[" + " " * 9000 + text_of(numbers(1))[1:]),
    "",
]


@pytest.mark.parametrize("odd", ODD)
def test_anything_else_is_answered_the_same(echo: OpenedModel, odd: str) -> None:
    """What is wrong, or right in another way, on a connection that takes the fast path; and it may come back."""

    async def story(state: ServerState, *clients: Client) -> None:
        await settle(state, *clients)
        await same(json_request("echo", odd), *clients)
        assert state.context.counts.fast_path == 0
        if THOROUGH or odd in {ODD[0], ODD[-1]}:  # which takes dozens of requests
            await settle(state, *clients)
        await same(json_request("echo", GOOD), *clients)

    beside(story, echo)


@pytest.mark.parametrize(
    "length", ["+900", "9 00", "", "0x9", "9" * 30, "{0}\r\nContent-Length: {0}", "{0}, {0}", "\t{0}", "{0} ", "00{0}"]
)
def test_lengths_are_read_as_strictly(echo: OpenedModel, length: str) -> None:
    """Content-Length may change there, and whatever is no plain one is refused, or taken, as ever."""

    async def story(state: ServerState, *clients: Client) -> None:
        await settle(state, *clients)
        head, _, body = json_request("echo", GOOD).partition(b"\r\n\r\n")
        text = f"Content-Length: {length.format(len(body))}".encode()
        await same(re.sub(rb"Content-Length: \d+", text, head) + b"\r\n\r\n" + body, *clients)

    beside(story, echo)


def test_a_body_over_the_limit_is_refused_there_too(echo: OpenedModel) -> None:
    """The limit is the server's, not that of the body that a connection came with."""

    async def story(state: ServerState, *clients: Client) -> None:
        short = body_of(text_of(np.ones(SHAPE)))
        await settle(state, *clients, request=json_request("echo", short))
        assert b" 413 " in await same(json_request("echo", body_of(text_of(numbers(1)))), *clients)

    beside(story, echo, limits=ServerLimits(body_bytes=200))


@pytest.mark.parametrize("form", ["list", "binary"])
def test_clients_that_wait_to_be_asked_for_their_body_stay_on_the_standard_path(echo: OpenedModel, form: str) -> None:
    """Each head comes alone, and is answered with 100 at once, however many were like it."""
    entry = '{"name":"x","shape":[1,4,4],"datatype":"FP32","parameters":{"binary_data_size":64}}'
    lead = f'{{"inputs":[{entry}]}}'.encode()
    size = [f"Inference-Header-Content-Length: {len(lead)}"] if form == "binary" else []

    async def story(state: ServerState, client: Client, _other: Client) -> None:
        for number in range(20):
            array = numbers(number)
            body = body_of(text_of(array)) if form == "list" else lead + array.tobytes()
            head, end, body = json_request("echo", body, *size, "Expect: 100-continue").partition(b"\r\n\r\n")
            began_s = time.monotonic()
            await client.send(head + end)
            interim = await asyncio.wait_for(client.loop.sock_recv(client.ours, 65536), 10)
            assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            assert (await client.read())[0] == 200
            assert time.monotonic() - began_s < 0.5
            assert state.context.counts.fast_path == 0

    beside(story, echo)


def test_rows_behind_a_json_head_take_it_too(echo: OpenedModel) -> None:
    """The binary form of the protocol: the JSON is compared, and the rows are copied."""
    entry = '{"name":"x","shape":[1,4,4],"datatype":"FP32","parameters":{"binary_data_size":64}}'
    head = f'{{"inputs":[{entry}],"parameters":{{"binary_data_output":true}}}}'.encode()

    async def story(state: ServerState, *clients: Client) -> None:
        for number in range(200):
            array = numbers(number)
            size = f"Inference-Header-Content-Length: {len(head)}"
            answer = await same(json_request("echo", head + array.tobytes(), size), *clients)
            assert answer.endswith(array.tobytes())
            if number > 8 and state.context.counts.fast_path:
                break
        assert state.context.counts.fast_path
        assert b" 400 " in await same(json_request("echo", head.replace(b"64", b"65") + bytes(64), size), *clients)

    beside(story, echo)


@pytest.mark.parametrize(
    "asked", ["", ',"outputs":[{"name":"doubled"},{"name":"halved"}]', ',"outputs":[{"name":"doubled"}]']
)
def test_several_outputs_come_in_the_order_asked_for(tmp_path: Path, asked: str) -> None:
    """Each list is its own output's, also of a batch of many."""

    async def story(state: ServerState, *clients: Client) -> None:
        many = [clients[0], *[await Client(state, number).connect() for number in range(5)]]
        for round_number in range(200):
            requests = [
                json_request(
                    "echo",
                    flat_body(4, text_of(numbers(10 * round_number + number).reshape(-1)[:4]), asked),
                )
                for number in range(len(many))
            ]
            for client, request in zip(many, requests, strict=True):
                await client.send(request)
            for client, request in zip(many, requests, strict=True):
                answer = await client.read()
                await clients[1].send(request)
                assert answer[2] == (await clients[1].read())[2]
            if round_number > 8 and state.context.counts.fast_path == len(many):
                break
        assert state.context.counts.fast_path == len(many)
        for client in many[1:]:
            client.close()

    nodes = [helper.make_node("Add", ["x", "x"], ["doubled"]), helper.make_node("Mul", ["x", "half"], ["halved"])]
    inputs, outputs = (
        [value(name, DType.FP32, (None, 4)) for name in names] for names in (("x",), ("halved", "doubled"))
    )
    with OpenedModel(save(tmp_path / "two.onnx", nodes, inputs, outputs, {"half": np.float32([0.5])})) as model:
        beside(story, model)


def test_who_comes_off_with_an_answer_due_gets_it(echo: OpenedModel) -> None:
    """The queue has the request, the connection is on the standard path again: the answer is the same, and its last."""

    async def story(state: ServerState, *clients: Client) -> None:
        await settle(state, *clients)
        model = state.context.served("echo").model
        model.entry.pause()
        request = json_request("echo", GOOD)
        await clients[0].send(request)
        await until(lambda: bool(model.statistics()["queued_rows"]))
        state.fast_path.dissolve()
        model.entry.go_on()
        _, head, body = await clients[0].read()
        await clients[1].send(request)
        assert (await clients[1].read())[2] == body
        assert b"Connection" not in head
        for number in range(80):  # of other lengths than the one that it came off with
            await same(json_request("echo", body_of(text_of(numbers(number)))), *clients)

    beside(story, echo, dispatch="worker")


def test_answers_that_do_not_fit_go_out_whole(tmp_path: Path) -> None:
    """A client that does not read gets all of its JSON later."""
    width = 1900

    async def story(state: ServerState, *clients: Client) -> None:
        request = json_request("echo", flat_body(width, f"[{','.join(['1e9'] * width)}]"))
        await settle(state, *clients, request=request)
        (connection,) = state.members
        socket.socket(fileno=os.dup(connection._repeating.fd)).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        await clients[0].send(request)
        await until(lambda: not state.context.counts.fast_path)
        await clients[1].send(request)
        assert (await clients[0].read())[2] == (await clients[1].read())[2]
        await same(request, *clients)

    with OpenedModel(identity(DType.FP32, (None, width), tmp_path / "wide.onnx")) as model:
        beside(story, model)
