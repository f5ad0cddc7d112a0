"""Calls of several threads that go on while replicas come and go, each answer compared with onnxruntime's."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime as ort

import tailcut

WIDTH = 16


def truth(model: Path, x: np.ndarray) -> np.ndarray:
    """onnxruntime's answer."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


@dataclass
class Load:
    """Threads that share one client, each with a pause between its calls.

    Args:
        client: that is asked.
        models: files; each answer has to be that of one of them.
        threads: how many.
        pause_s: between two calls of a thread.
    """

    client: tailcut.Client
    models: list[Path]
    threads: int = 4
    pause_s: float = 0.002
    right: int = 0
    by_model: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        random = np.random.default_rng(0)
        self._inputs = random.standard_normal((32, 1, WIDTH)).astype(np.float32)
        self._truths = [[truth(model, x) for x in self._inputs] for model in self.models]
        self.by_model = [0] * len(self.models)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._running = [threading.Thread(target=self._work, args=(number,)) for number in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()

    def more(self, count: int, limit_s: float = 60.0) -> None:
        """Wait for this many more right answers."""
        until, end = self.right + count, time.monotonic() + limit_s
        while self.right < until:
            assert time.monotonic() < end, f"{self.right} right, {self.failed[-3:]}"
            time.sleep(0.02)

    def _work(self, number: int) -> None:
        step = number
        while not self._stop.is_set():
            step += 1
            at = step % len(self._inputs)
            try:
                answer = self.client.infer("m", {"x": self._inputs[at]}, timeout_s=10.0)["y"]
            except Exception as error:  # noqa: BLE001  whatever it is, it is counted
                with self._lock:
                    self.failed.append(repr(error))
                time.sleep(0.05)
                continue
            fits = [np.allclose(answer, item[at], rtol=1e-4, atol=1e-5) for item in self._truths]
            with self._lock:
                if any(fits):
                    self.right += 1
                    self.by_model[fits.index(True)] += 1
                else:
                    self.wrong.append(f"{at}: {answer}")
            self._stop.wait(self.pause_s)
