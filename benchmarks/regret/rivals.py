"""What a tuned profile is compared with beside profiles by hand: openvino's performance hints, and the quickest peer.

The hints are asked of openvino itself, and what it chooses for this machine is served: with a call for each request for
LATENCY, with all its streams busy for THROUGHPUT. The peer is mosec, which reached most of all in benchmarks/peers, as
its documentation recommends it and with its own encoding; its server has an environment of its own, and only knows the
models of one float32 input.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "peers"))
import compare
import openvino
from contestants import BUILD, PORT, SHAPES, TRIES, Contestant, of_peer

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.lab.load import LoadTarget, Payload
from tailcut.lab.trial import Arm
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings
from tailcut.tuner.space import SpaceFacts, quickest_wire

PEER = "mosec"


def hints(model: Path, facts: SpaceFacts) -> Iterator[tuple[str, Settings]]:
    """What openvino chooses for each hint, by name."""
    if any(tensor.dtype == "BYTES" for tensor in facts.spec.inputs + facts.spec.outputs):
        return
    core = openvino.Core()
    for hint in ("LATENCY", "THROUGHPUT"):
        compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": hint})
        streams = max(1, int(compiled.get_property("NUM_STREAMS")))
        threads = max(1, int(compiled.get_property("INFERENCE_NUM_THREADS")))
        precision = "bf16" if "bf16" in str(compiled.get_property("INFERENCE_PRECISION_HINT")) else "f32"
        options = EngineOptions(
            name="openvino",
            precision=precision,  # type: ignore[arg-type]
            threads=max(1, threads // streams),
            instances=streams,
        )
        batching = BatchingSettings(max_batch_size=1, bind=facts.spec.fixed_rows)
        io = IoSettings(wire=quickest_wire(facts))
        name = f"openvino's {hint} hint: {precision}, {options.threads} x {streams}"
        yield name, Settings(engine=options, batching=batching, io=io)


@contextmanager
def peers(name: str, model: Path) -> Iterator[dict[str, Arm]]:
    """The peer's servers, each of its tries on a port of its own, while the context lasts; none for other models."""
    if name not in SHAPES:
        yield {}
        return
    (BUILD / "peers").mkdir(parents=True, exist_ok=True)
    compare.install(PEER)
    x = np.random.default_rng(0).standard_normal((1, *SHAPES[name])).astype(np.float32)
    engine = open_engine(model, EngineOptions())
    expected = engine.run({"x": x})[engine.spec.outputs[0].name][0]
    engine.close()
    with ExitStack() as stack:
        arms = {}
        for number, tried in enumerate(TRIES[PEER]):
            item = of_peer(PEER, tried, model, x, PORT + number)
            stack.enter_context(compare.serving(item, expected))
            arms[item.label] = Arm(LoadTarget(port=item.port), [payload(item)], None)
        yield arms


def payload(contestant: Contestant) -> Payload:
    """A request to a peer as the load client sends it."""
    lines = [
        f"POST {contestant.path} HTTP/1.1",
        f"Host: 127.0.0.1:{contestant.port}",
        f"Content-Length: {len(contestant.body)}",
    ]
    lines += [f"{name}: {value}" for name, value in contestant.headers.items()]
    return Payload("\r\n".join([*lines, "", ""]).encode() + contestant.body)
