"""A bounded cache of results that depend on bytes, with these bytes as keys. Pure.

Clients repeat themselves, so most look-ups hit, or none do. A least-recently-used order would cost each hit as much as
the look-up itself; instead, a full memo is emptied in one step (docs/decisions/002-heads-by-their-bytes.md).

Functions with few, short arguments use `functools.lru_cache` instead (`server/http/replies.py`,
`wire/grpc/framing.py`, `runtime/profile_file.py`). Engines and the runtime do not import the wire, and their keys are
not bytes: calls by the rows that they are bound to (`runtime/executors.py`), proven shapes
(`engines/openvino_instance.py`), and device memory by its thread and shapes (`engines/cuda/onnx.py`, where a failed
call also drops it). They limit these caches themselves.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BytesMemo(Generic[K, V]):
    """Values by all bytes that they depend on, so that a value is never found for other bytes.

    A key is these bytes, or a tuple of them and anything else that the value depends on. `get` is that of a dictionary.

    Args:
        entries: how many are kept, at most.
        key_bytes: values with longer keys are not kept; None: no limit.
    """

    __slots__ = ("_entries", "_key_bytes", "_values", "clear", "get")

    def __init__(self, entries: int, key_bytes: int | None = None) -> None:
        self._entries = entries
        self._key_bytes = key_bytes
        self._values: dict[K, V] = {}
        self.get = self._values.get
        self.clear = self._values.clear

    def keep(self, key: K, value: V, size: int = 0) -> V:
        """Keep a value, and return it; `size` is the length of the key's bytes, where that is limited."""
        if self._key_bytes is None or size <= self._key_bytes:
            if len(self._values) >= self._entries:
                self._values.clear()
            self._values[key] = value
        return value

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values
