"""The asyncio client as if it were the blocking one."""

import asyncio
from collections.abc import Callable
from typing import Self

import tailcut


class Blocking:
    """The asyncio client behind the blocking one's methods, so that each test speaks of both."""

    def __init__(self, url: str, **settings) -> None:
        self._runner = asyncio.Runner()
        self._client = tailcut.AsyncClient(url, **settings)

    def __getattr__(self, name: str) -> Callable:
        return lambda *arguments, **more: self._runner.run(getattr(self._client, name)(*arguments, **more))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
