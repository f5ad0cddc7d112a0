"""HTTP/2 frames as a client sends and reads them, made by hand so that tests share no code with the server."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY = 1, 4, 8, 32


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def settings(**values: int) -> bytes:
    numbers = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "fields": 6}
    return frame(SETTINGS, 0, 0, b"".join(numbers[k].to_bytes(2, "big") + word(v) for k, v in values.items()))


HELLO = PREFACE + settings()


def fields(path: str = "/a", **more: str) -> list[tuple[str, str]]:
    """A gRPC request's header fields; `_` in names stands for `-`."""
    first = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
    return first + [("content-type", "application/grpc")] + [(k.replace("_", "-"), v) for k, v in more.items()]


def literal(*pairs: tuple[str, str]) -> bytes:
    """A header block of literals without indexing, valid or not."""
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in pairs
    )


PLAIN = literal(*fields())


def request(stream: int, data: bytes | None = None, block: bytes = PLAIN) -> bytes:
    """A whole request; without data, it ends with its headers."""
    if data is None:
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, data)


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return (
            int.from_bytes(self.payload[-4:], "big") if self.kind == RST else int.from_bytes(self.payload[4:8], "big")
        )


def frames(data: bytes) -> list[Frame]:
    """The whole frames in these bytes."""
    result, at = [], 0
    while len(data) - at >= 9:
        size = int.from_bytes(data[at : at + 3], "big")
        result.append(
            Frame(
                data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : at + 9 + size]
            )
        )
        at += 9 + size
    return result


class Client:
    """A blocking client of raw frames that acknowledges nothing by itself."""

    def __init__(self, host: str, port: int, hello: bytes = HELLO) -> None:
        self.sock = socket.create_connection((host, port), 20)
        self.decoder = hpack.Decoder()
        self._data = b""
        self.sock.sendall(hello)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that arrive until the server closes the connection."""
        while True:
            while len(self._data) < 9 or len(self._data) < 9 + int.from_bytes(self._data[:3], "big"):
                piece = self.sock.recv(1 << 20)
                if not piece:
                    return
                self._data += piece
            size = 9 + int.from_bytes(self._data[:3], "big")
            whole, self._data = self._data[:size], self._data[size:]
            yield frames(whole)[0]

    def until(self, kind: int, stream: int = 0) -> Frame:
        """The next frame of that kind and stream."""
        for item in self.frames():
            if (item.kind, item.stream) == (kind, stream):
                return item
        raise ConnectionError("the server closed the connection")

    def status(self, stream: int) -> tuple[dict[str, str], bytes]:
        """The trailers of a stream, and the data before them."""
        data = b""
        for item in self.frames():
            if item.kind == HEADERS:
                text = dict(self.decoder.decode(item.payload))
                if item.stream == stream and item.flags & END_STREAM:
                    return text, data
            elif item.kind == DATA and item.stream == stream:
                data += item.payload
        raise ConnectionError("the server closed the connection")

    def closed(self) -> list[Frame]:
        """Everything until the server closes."""
        return list(self.frames())
