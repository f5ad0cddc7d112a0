"""Child processes of a test, by fork(2): their time is bounded, and their failures fail the test."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable

_TIME_S = 60  # for a child; SIGALRM ends one that hangs


def fork(work: Callable[[], object]) -> int:
    """Run a function in a forked child, which must not raise; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(_TIME_S)
        work()
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, the child must exit here
        os.write(2, traceback.format_exc().encode())  # os._exit flushes nothing
    finally:
        os._exit(code)


def succeeded(*children: int) -> bool:
    """Wait for children; whether all of them succeeded."""
    codes = [os.waitpid(child, 0)[1] for child in children]
    return not any(codes)


def start(method: str, work: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    """Run a function in a child process of `multiprocessing`."""
    process = multiprocessing.get_context(method).Process(target=work, args=arguments)
    process.start()
    return process


def ended_well(*processes: multiprocessing.process.BaseProcess) -> bool:
    """Wait for such children; whether all of them succeeded in time."""
    for process in processes:
        process.join(_TIME_S)
        if process.is_alive():
            process.kill()
    return all(process.exitcode == 0 for process in processes)
