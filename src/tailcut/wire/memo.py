"""A bounded cache: what was read from bytes, or written for them, kept by those bytes. Pure.

Clients repeat themselves, so most look-ups hit, or none do. A least-recently-used order would cost each hit as much as
the look-up itself; a full memo is emptied instead, in one step (docs/decisions/002-heads-by-their-bytes.md).

Functions of few, short arguments are kept by `functools.lru_cache` instead (`server/http/replies.py`,
`wire/grpc/framing.py`, `runtime/profile_file.py`). Engines and the runtime know no wire, and what they keep has no
bytes for a key: calls by the rows that they are bound to (`runtime/executors.py`), shapes that were proven
(`engines/openvino_instance.py`), and device memory by its thread and shapes (`engines/cuda/onnx.py`, where a failed
call ends it, too). They bound that where it stands.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BytesMemo(Generic[K, V]):
    """Values by the bytes that they depend on: by all of them, so that no other bytes ever find a value.

    A key is those bytes, or a tuple of them and of what else the value depends on. `get` is that of a dictionary.

    Args:
        entries: how many are kept at most.
        key_bytes: values of longer keys are not kept; None: of any key.
    """

    __slots__ = ("_entries", "_key_bytes", "_values", "clear", "get")

    def __init__(self, entries: int, key_bytes: int | None = None) -> None:
        self._entries = entries
        self._key_bytes = key_bytes
        self._values: dict[K, V] = {}
        self.get = self._values.get
        self.clear = self._values.clear

    def keep(self, key: K, value: V, size: int = 0) -> V:
        """Keep a value, and return it; `size` is the length of the key's bytes where these are bounded."""
        if self._key_bytes is None or size <= self._key_bytes:
            if len(self._values) >= self._entries:
                self._values.clear()
            self._values[key] = value
        return value

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values
