"""Requests that are known by their leads: the same answers and the same errors as for those that are read whole."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop
from tests.engines.models import dynamic_sequence
from tests.server import hostile
from tests.server.test_grpc import method
from tests.servers import Server, serving

from tailcut.errors import TailcutError
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server.context import Context
from tailcut.server.grpc.infer import GrpcInference
from tailcut.server.grpc.templates import Plans
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.wire.grpc.form import read_lead
from tailcut.wire.grpc.framing import CallHead, CallPlan, prefixed
from tailcut.wire.grpc.messages import METHODS, SERVICE

Request, Response, _ = METHODS["ModelInfer"]
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def request_for(name: str, *inputs: str, rows: int = 2, **fields: Any) -> Any:
    message = Request(model_name=name, **fields)
    for number, tensor in enumerate(inputs):
        message.inputs.add(name=tensor, datatype="FP32", shape=[rows, 4])
        message.raw_input_contents.append((np.resize(ROWS, (rows, 4)) + number).tobytes())
    return message


def changed(message: Any, **fields: Any) -> Any:
    other = Request.FromString(message.SerializeToString())
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(other, name)[:] = value
        else:
            setattr(other, name, value)
    return other


PAIR = request_for("pair", "a", "b")
MLP = request_for("mlp", "x")
LAST = changed(PAIR)
LAST.outputs.add(name="difference")
TIMED = changed(MLP)
TIMED.parameters["timeout"].int64_param = 5_000_000
TIMED.parameters["priority"].int64_param = 3
LATE = changed(MLP)
LATE.parameters["timeout"].int64_param = -1
KNOWN = {
    "one input": MLP,
    "an id": changed(MLP, id="seven"),
    "two inputs": PAIR,
    "in another order": request_for("pair", "b", "a"),
    "one output": LAST,
    "a schedule": TIMED,
    "one row": request_for("mlp", "x", rows=1),
}
OTHERS = {
    "another id": changed(MLP, id="é"),
    "too short": changed(MLP, raw_input_contents=[bytes(28)]),
    "too many": changed(PAIR, raw_input_contents=[bytes(32)] * 3),
    "too few": changed(PAIR, raw_input_contents=[bytes(32)]),
    "cut elsewhere": changed(PAIR, raw_input_contents=[bytes(31), bytes(33)]),
    "over the largest batch": request_for("mlp", "x", rows=40),
    "no model": request_for("none", "x"),
    "no such timeout": LATE,
    "an input missing": request_for("pair", "a"),
}
EXTRA = {"a field behind": b"\x0a\x04pair", "unknown": b"\x4a\x01a", "an id behind": b"\x1a\x01z", "rubbish": b"\xff"}


async def outcome_of(plans: Plans, data: bytes, *, final: bool = False) -> bytes | str:
    """The answer to a message, or the error."""
    done = asyncio.get_running_loop().create_future()
    inference = GrpcInference(plans, CallHead(CallPlan("/s/m")), 1, done.set_result, final=final)
    try:
        inference.begin(data, 0)
    except TailcutError as error:
        return f"{error.code}: {error}"
    await asyncio.wait_for(done, 20)
    return f"{inference.error.code}: {inference.error}" if inference.error is not None else inference.answer or b""


async def read_in_steps(plans: Plans, data: bytes) -> tuple[bool, bytes | str]:
    """Whether a message is left to the loop's next turns, and its answer or the error."""
    loop, turns = asyncio.get_running_loop(), plans.state.steps
    started: list[object] = []
    start = turns.start
    turns.start = lambda steps, done, **more: started.append(steps) or start(steps, done, **more)  # type: ignore[method-assign]
    try:
        answer = await asyncio.wait_for(loop.create_task(outcome_of(plans, data)), 20)
    finally:
        turns.start = start  # type: ignore[method-assign]
    return bool(started), answer


async def immediate_outcome(plans: Plans, data: bytes) -> bytes | str | None:
    """The same of a message that is like the last one of its length; None of any other."""
    done, sent = asyncio.get_running_loop().create_future(), prefixed(data)
    inference, known = GrpcInference(plans, CallHead(CallPlan("/s/m")), 1, done.set_result), plans.known(len(sent))
    if known is None or not inference.begin_known(sent, known, 0):
        return None
    await asyncio.wait_for(done, 20)
    return f"{inference.error.code}: {inference.error}" if inference.error is not None else inference.answer or b""


def with_plans(
    models: Path, use: Callable[[Callable[[], Plans]], Awaitable[None]], *names: str, batch: int = 32
) -> None:
    """Have a loop use plans of a server of mlp and pair, or others; each call makes new ones, that know nothing."""

    async def run() -> None:
        settings = Settings(batching=BatchingSettings(max_batch_size=batch, dispatch="inline"))
        files = [models / f"{name}.onnx" for name in names or ("mlp", "pair")]
        opened = [Model.open(Profile.of_model(file, settings)) for file in files]
        repository = ModelRepository([ServedModel(model, model.spec.name) for model in opened])
        state = ServerState(Context(repository), ServerLimits(), direct_bytes=1 << 20)
        try:
            await use(lambda: Plans(state))
        finally:
            state.close()
            repository.close()

    uvloop.run(run())


def known(plans: Plans, message: Any) -> bool:
    lead = read_lead(message.SerializeToString())
    return lead is not None and plans.find(lead.key) is not None


def test_the_same_answers_and_errors(models: Path) -> None:
    """Whether nothing is known or everything, for what is like a request before it, nearly like one, and wrong."""

    async def use(make: Callable[[], Plans]) -> None:
        plans = make()
        for message in KNOWN.values():
            for _ in range(2):
                await outcome_of(plans, message.SerializeToString())
            assert known(plans, message)
        for message in (*KNOWN.values(), *OTHERS.values()):
            data = message.SerializeToString()
            for final in (False, True):
                assert await outcome_of(plans, data, final=final) == await outcome_of(make(), data, final=final)
            for extra in EXTRA.values():
                assert await outcome_of(plans, data + extra) == await outcome_of(make(), data + extra)

    with_plans(models, use)


def test_whole_messages_of_one_row(models: Path) -> None:
    """One that is like the last of its length is answered as any other; another one is not taken for it."""

    async def use(make: Callable[[], Plans]) -> None:
        plans, row = make(), KNOWN["one row"]
        names = ["", "seven", "eight"]
        for name in names:
            for _ in range(3):
                await outcome_of(plans, changed(row, id=name).SerializeToString())
        for name in (*names, "sevex"):
            data = changed(row, id=name).SerializeToString()
            assert await immediate_outcome(plans, data) == await outcome_of(make(), data)
        for message in (changed(row, id="sev\u00e9"), changed(row, model_name="mlq"), *OTHERS.values()):
            assert await immediate_outcome(plans, message.SerializeToString()) is None

    with_plans(models, use)


def test_a_lead_is_learned_at_its_second_time(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids make no difference; parameters that change each time are not kept, and cost nobody his place."""
    monkeypatch.setattr("tailcut.server.grpc.templates._PLANS", 64)
    monkeypatch.setattr("tailcut.server.grpc.templates._SEEN", 256)  # fewer than come

    async def use(make: Callable[[], Plans]) -> None:
        plans = make()
        await outcome_of(plans, changed(MLP, id="1").SerializeToString())
        assert not known(plans, MLP)
        await outcome_of(plans, changed(MLP, id="2").SerializeToString())
        assert known(plans, MLP)
        for number in range(400):
            message = changed(MLP)
            message.parameters["number"].int64_param = number
            await outcome_of(plans, message.SerializeToString())
            assert not known(plans, message)
        assert known(plans, MLP)

    with_plans(models, use)


@pytest.mark.parametrize("name", ["big", "sequence"])
def test_large_messages_are_known_too(models: Path, tmp_path: Path, name: str) -> None:
    """Two with a lead are read in steps; those after them go to rows, or arrays, as they are."""

    async def use(make: Callable[[], Plans]) -> None:
        plans = make()
        for number in range(5):
            values = np.full((1, 50_000), number, np.float32)
            message = Request(model_name=name, id=str(number), raw_input_contents=[values.tobytes()])
            message.inputs.add(name="x", datatype="FP32", shape=values.shape)
            stepped, answer = await read_in_steps(plans, message.SerializeToString())
            assert (stepped, known(plans, message)) == (number < 2, number > 0)
            assert Response.FromString(answer).id == str(number)
            assert answer == await outcome_of(make(), message.SerializeToString())

    if name == "sequence":
        models = tmp_path
        dynamic_sequence(models / "sequence.onnx")
    with_plans(models, use, name, batch=2)


def test_what_takes_long_to_read_is_read_in_steps(tmp_path: Path) -> None:
    """However it begins: strings, and fields behind the tensors, are not read in one go, the first time or later."""

    async def use(make: Callable[[], Plans]) -> None:
        plans = make()
        words = hostile.message("words", [1, 20_000], hostile.word(0) * 20_000, "BYTES")
        behind = hostile.message("mlp", [1, 4], bytes(16)) + hostile.parameters(4000)
        for _ in range(3):
            stepped, answer = await read_in_steps(plans, words)
            assert stepped
            assert Response.FromString(answer).raw_output_contents[0] == bytes(80_000)
            stepped, answer = await read_in_steps(plans, behind)
            assert stepped
            assert len(Response.FromString(answer).raw_output_contents[0]) == 12
        for _ in range(3):  # what is known of its lead does not fit it
            await outcome_of(plans, hostile.message("mlp", [1, 4], bytes(16)))
        assert (await read_in_steps(plans, behind))[0]

    hostile.make_models(tmp_path)
    with_plans(tmp_path, use, "mlp", "words", batch=1)


@pytest.mark.slow
def test_what_is_known_is_bounded(models: Path) -> None:
    """Over a thousand leads it begins anew; a lead that is very long is never kept."""

    async def use(make: Callable[[], Plans]) -> None:
        plans = make()
        kept = 0
        for number in range(1100):
            message = changed(MLP)
            message.parameters["number"].int64_param = number
            for _ in range(2):
                await outcome_of(plans, message.SerializeToString())
            kept += known(plans, message)
        assert kept == 1100
        message = changed(MLP)
        message.parameters["number"].int64_param = 0
        assert not known(plans, message)
        message.parameters["note"].string_param = "x" * 2048
        for _ in range(3):
            await outcome_of(plans, message.SerializeToString())
        assert not known(plans, message)

    with_plans(models, use)


@pytest.fixture(scope="module")
def controlled(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """mlp and pair, which clients may unload."""
    folder = tmp_path_factory.mktemp("controlled")
    flags = ["--grpc-port", "0", "--allow-model-control"]
    with serving(folder, models / "mlp.onnx", models / "pair.onnx", *flags) as running:
        yield running
        assert running.stop() == 0


def test_a_model_that_goes_is_forgotten(controlled: Server) -> None:
    """Unloaded it is unknown, however often it was asked before; loaded again it answers."""
    with grpc.insecure_channel(f"{controlled.host}:{controlled.grpc_port}") as channel:
        infer = method(channel, "ModelInfer")
        answers = {infer(MLP).SerializeToString() for _ in range(4)}
        for call in ("RepositoryModelUnload", "RepositoryModelLoad"):
            method(channel, call)(METHODS[call][0](model_name="mlp"))
            if call == "RepositoryModelUnload":
                for _ in range(3):
                    with pytest.raises(grpc.RpcError) as caught:
                        infer(MLP)
                    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        answers |= {infer(MLP).SerializeToString() for _ in range(4)}
        assert len(answers) == 1


def test_every_request_is_counted_and_has_its_trace(controlled: Server) -> None:
    """Calls and streams that are known by their leads are requests like all others."""
    names = ("nv_inference_request_success", "tailcut_grpc_replies_total")
    before = [controlled.metric(name) for name in names]
    with grpc.insecure_channel(f"{controlled.host}:{controlled.grpc_port}") as channel:
        raw = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        whole = {raw(PAIR.SerializeToString()) for _ in range(5)}
        streamed = list(method(channel, "ModelStreamInfer")(iter([PAIR] * 5)))
    assert [after - was for after, was in zip(map(controlled.metric, names), before, strict=True)] == [10, 10]
    (answer,) = whole
    for item in streamed:
        assert item.infer_response.parameters.pop("triton_final_response").bool_param
        assert item.infer_response == Response.FromString(answer)
    assert (
        np.frombuffer(item.infer_response.raw_output_contents[0], np.float32).tolist()
        == (2 * ROWS + 1).ravel().tolist()
    )
    with controlled.connect() as wire:
        tail = json.loads(wire.ask(b"GET /v2/models/pair/tail HTTP/1.1\r\nHost: x\r\n\r\n").body)
    assert tail["requests"] == 10


def test_clients_that_come_late_are_known_too(models: Path) -> None:
    """After hundreds of messages of one length that were unlike each other, those of a newcomer are still noted."""

    async def use(make: Callable[[], Plans]) -> None:
        plans, row = make(), KNOWN["one row"]
        either = [changed(row, id="x"), changed(row, id="x")]
        for number, message in enumerate(either, 1):
            message.parameters["number"].int64_param = number
        for _ in range(300):
            for message in either:
                await outcome_of(plans, message.SerializeToString())
        newcomer = changed(row, id="one that comes late").SerializeToString()
        for _ in range(20):
            await outcome_of(plans, newcomer)
        assert await immediate_outcome(plans, newcomer) == await outcome_of(make(), newcomer)

    with_plans(models, use)
