"""Makes forked servers of tests quick: workers are forked, collections are small, and processes end without a teardown.

An executed worker would import everything again, a second or more. A start collects garbage in the server's own objects
instead of in all that was imported before the fork. A process that ends skips what the interpreter does after the last
exit handler, a fifth of a second of destroying imported modules one by one.

Only the tests' fork server imports this module, after all others. An executed server is as usual in all of this, as
in tests/server/workers/test_supervisor.py.
"""

import asyncio
import atexit
import gc
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

from tailcut.server.workers import supervisor


class ForkedWorker(subprocess.Popen):
    """A worker that starts as a copy of its supervisor."""

    def __init__(self, command: Sequence[str], *, stdin: int, **how: Any) -> None:
        assert stdin == subprocess.DEVNULL
        super().__init__(command, **how)

    def _execute_child(
        self,
        args: Sequence[str],
        _executable: object,
        _preexec: object,
        _close: object,
        pass_fds: Collection[int],
        cwd: str,
        env: Mapping[str, str],
        *_others: object,
    ) -> None:
        """Replace `Popen._execute_child`: fork, and continue like a process executed with these arguments."""
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                _become(args, pass_fds, os.fspath(cwd), env)
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
                code = _run()
            except BaseException:  # noqa: BLE001  whatever it is, the child must end here
                traceback.print_exc()
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        self._child_created = True


def _become(command: Sequence[str], keep: Collection[int], folder: str, environment: Mapping[str, str]) -> None:
    """Give up the supervisor's state. None of it is freed, since its frames stay below this one."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    kept = [0, 1, 2, *sorted(keep)]
    for below, above in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(below + 1, above)
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(None)
    atexit._clear()
    logging.getLogger("tailcut").handlers.clear()
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  another thread may have held the lock of the old one
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115  likewise
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv = ["tailcut", *command[3:]]  # after PYTHON -m tailcut
    sys.orig_argv = [*command]


def _run() -> int:
    code: Any = 0
    try:
        runpy.run_module("tailcut", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _run_and_exit(*_: object, **__: object) -> NoReturn:
    """Run the command of a forked server. An exception that ends it is the interpreter's to report, as usual."""
    os._exit(_run())


supervisor.subprocess = SimpleNamespace(Popen=ForkedWorker, DEVNULL=subprocess.DEVNULL)
sys.modules["__main__"].runpy = SimpleNamespace(run_module=_run_and_exit)  # with which the fork server runs a command
gc.collect()
gc.freeze()
