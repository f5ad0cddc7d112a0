"""Children of a test, by fork(2): each in bounded time, and its failure is the test's."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable

_TIME_S = 60  # for a child; one that hangs is ended by SIGALRM


def fork(work: Callable[[], object]) -> int:
    """Do some work in a forked child, which must raise nothing; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(_TIME_S)
        work()
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, the child must end here
        os.write(2, traceback.format_exc().encode())  # nothing is flushed at such an end
    finally:
        os._exit(code)


def succeeded(*children: int) -> bool:
    """Wait for children; whether each has done its work."""
    codes = [os.waitpid(child, 0)[1] for child in children]
    return not any(codes)


def start(method: str, work: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    """Do some work in a child of `multiprocessing`."""
    process = multiprocessing.get_context(method).Process(target=work, args=arguments)
    process.start()
    return process


def ended_well(*processes: multiprocessing.process.BaseProcess) -> bool:
    """Wait for such children; whether each has done its work in time."""
    for process in processes:
        process.join(_TIME_S)
        if process.is_alive():
            process.kill()
    return all(process.exitcode == 0 for process in processes)
