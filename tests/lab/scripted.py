"""An HTTP server on a real socket with scripted answers: slow, broken or unusual ones."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from tailcut.lab.load import LoadTarget

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Script = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


async def answer_ok(number: int, writer: asyncio.StreamWriter) -> None:
    """A script that answers each request with 200."""
    writer.write(OK)


@contextmanager
def scripted(script: Script) -> Iterator[LoadTarget]:
    """Run a server in a thread; the script answers each request, numbered from 0 in order of arrival."""
    loop = asyncio.new_event_loop()
    port: Future[int] = Future()
    count = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")
                )
                await reader.readexactly(length)
                number, count = count, count + 1
                await script(number, writer)
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        port.set_result(server.sockets[0].getsockname()[1])
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    task = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_until_complete, args=(task,))
    thread.start()
    try:
        yield LoadTarget("127.0.0.1", port.result(10))
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
