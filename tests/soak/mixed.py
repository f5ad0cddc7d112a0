"""Mixed traffic against a real server of identity models: every request has a pattern of its own, and clients leave.

Each answer must be its own request's bytes. A client that leaves sends 0xAA only: no answer ever holds that pattern.
Half of the connections ask for the same thing again and again, so that the server serves them on the fast path where
it is a row of a small model, and has to tell it from what looks alike and is several.
"""

import asyncio
import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from tests.engines.models import identity
from tests.servers import Server, json_request, raw_request

from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType

WIDTHS = {"small": 8, "middle": 1000, "large": 30_000}  # floats a row
DISPATCH = {"small": "inline", "middle": "adaptive", "large": "worker"}  # each model computes in another way
CANARY = b"\xaa"
WORKERS = 32


def make_models(folder: Path) -> list[Path]:
    """Profiles of the identity models that the traffic is for."""
    profiles = []
    for name, width in WIDTHS.items():
        model = identity(DType.UINT8, (None, 4 * width), folder / f"{name}.onnx")
        batching = BatchingSettings(max_batch_size=32, dispatch=DISPATCH[name])
        settings = Settings(engine=EngineOptions(spinning=False), batching=batching)  # beside two other models
        profiles.append(folder / f"{name}.profile.toml")
        Profile.of_model(model, settings).save(profiles[-1])
    return profiles


@dataclass
class Tally:
    """Counts of the requests' outcomes."""

    answered: int = 0
    refused: int = 0
    fast_path: int = 0  # connections seen on the fast path at a time, at most
    left: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # seconds, of small raw requests, in order
    faults: list[str] = field(default_factory=list)


def pattern(number: int, size: int) -> bytes:
    """Bytes that no other request has, never two 0xAA in a row."""
    word = struct.pack("<QQ", number, number * 0x9E3779B97F4A7C15 & (1 << 64) - 1).replace(CANARY, b"\xab")
    return (word * (size // 16 + 1))[:size]


def _raw(model: str, body: bytes) -> bytes:
    return raw_request(model, body)


def _shape(model: str, body: bytes) -> list[int]:
    row = 4 * WIDTHS[model]
    return [len(body) // row, row]


def _binary(model: str, body: bytes) -> bytes:
    tensor = {"name": "x", "datatype": "UINT8", "shape": _shape(model, body)}
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    lead = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(body)}}], "outputs": wanted})
    request = raw_request(model, lead.encode() + body)
    return request.replace(b"Content-Length: 0", b"Content-Length: %d" % len(lead), 1)


def _json(model: str, body: bytes) -> bytes:
    tensor = {"name": "x", "datatype": "UINT8", "shape": _shape(model, body), "data": list(body)}
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    return json_request(model, {"inputs": [tensor], "outputs": wanted})


def _chunked(model: str, body: bytes) -> bytes:
    head, _, whole = _json(model, body).partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(whole[i : i + 999]), whole[i : i + 999]) for i in range(0, len(whole), 999)
    )
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", chunks + b"0\r\n\r\n"])


Drawn = tuple[Callable[[str, bytes], bytes], str, int]  # how a request is built, for which model, and its bytes
KINDS: list[tuple[Callable[[str, bytes], bytes], str, float]] = [
    (_raw, "small", 6),
    (_raw, "middle", 3),
    (_raw, "large", 1),
    (_binary, "small", 2),
    (_binary, "middle", 2),
    (_binary, "large", 1),
    (_json, "small", 2),
    (_chunked, "small", 1),
]
STEADY = [*KINDS[:1] * 4, *KINDS]  # of the connections that repeat themselves
LEAVES = ["in the head", "in the body", "before the answer", "in the answer"]


class _Client:
    """One connection at a time, until the numbers are used up."""

    def __init__(self, server: Server, seed: int, tally: Tally) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._tally = tally
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._steady: Drawn | None = None  # what this connection repeats

    async def run(self, numbers: "asyncio.Queue[int]") -> None:
        while not numbers.empty():
            number = numbers.get_nowait()
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._server.host, self._server.port)
                self._steady = self._draw(STEADY) if self._random.random() < 0.5 else None
            build, model, size = self._steady or self._draw(KINDS)
            if self._random.random() < (0.1 if self._steady else 0.2):
                await self._leave(build(model, CANARY * size), self._random.choice(LEAVES))
            else:
                await self._ask(build(model, pattern(number, size)), pattern(number, size), build is _raw)
        if self._streams is not None:
            self._streams[1].close()

    def _draw(self, kinds: Sequence[tuple[Callable[[str, bytes], bytes], str, float]]) -> Drawn:
        build, model, _ = self._random.choices(kinds, [item[2] for item in kinds])[0]
        return build, model, 4 * WIDTHS[model] * self._random.choice([1, 1, 1, 2, 5])

    async def _ask(self, request: bytes, expected: bytes, raw: bool) -> None:
        reader, writer = self._streams
        began = time.perf_counter()
        writer.write(request)
        try:
            status, body = await self._answer(reader)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self._tally.faults.append(f"a connection broke under a request: {error!r}")
            self._streams = None
            return
        if status == 503:
            self._tally.refused += 1
        elif status != 200 or not body.endswith(expected) or CANARY * 4 in body:
            self._tally.faults.append(f"status {status}, {len(body)} bytes for {len(expected)}")
        else:
            self._tally.answered += 1
            if raw and len(expected) == 32:
                self._tally.latencies.append(time.perf_counter() - began)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if b"\r\nConnection: close\r\n" in head:
            self._streams[1].close()
            self._streams = None
        return int(head[9:12]), body

    async def _leave(self, request: bytes, where: str) -> None:
        reader, writer = self._streams
        self._streams = None
        end = request.index(b"\r\n\r\n") + 4
        cut = {
            "in the head": self._random.randrange(1, end),
            "in the body": self._random.randrange(end, len(request)),
        }.get(where, len(request))
        try:
            writer.write(request[:cut])
            if where == "in the answer":
                await reader.read(20)
            if self._random.random() < 0.5:  # a reset, not a goodbye
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass
        self._tally.left[where] += 1


async def _watch(server: Server, tally: Tally) -> None:
    """Sample the server's gauge until stopped."""
    while True:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = await reader.read(-1)
        writer.close()
        tally.fast_path = max(
            tally.fast_path, int(float(re.search(rb"(?m)^tailcut_connections_express (\S+)", text)[1]))
        )
        await asyncio.sleep(0.1)


def mixed(server: Server, first: int, count: int, seed: int = 0) -> Tally:
    """Send `count` requests of unique numbers from `first` on."""

    async def run() -> Tally:
        tally = Tally()
        numbers: asyncio.Queue[int] = asyncio.Queue()
        for number in range(first, first + count):
            numbers.put_nowait(number)
        watching = asyncio.create_task(_watch(server, tally))
        await asyncio.gather(*[_Client(server, seed * 1000 + item, tally).run(numbers) for item in range(WORKERS)])
        watching.cancel()
        return tally

    return uvloop.run(run())
