"""Threads that send requests to servers for as long as a `with` block runs."""

import threading
from abc import ABC, abstractmethod
from typing import Self

from tests.servers import TIMEOUT_S


class AskingThreads(ABC):
    """Threads that each run `_ask`, which returns once `_over` is set."""

    def __init__(self, count: int) -> None:
        self.failed: list[object] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    @abstractmethod
    def _ask(self, number: int) -> None:
        """Send requests, and add failures to `failed`."""
