"""Several models of one server that take turns on the cores."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tests.engines.models import identity
from tests.servers import raw_request, serving

from tailcut.spec import DType


def test_every_model_answers_while_all_are_busy(tmp_path: Path) -> None:
    """Three models, six connections: each answer is the connection's own, and no turn is lost."""
    names = ("a", "b", "c")
    sources = [identity(DType.FP32, (None, 8), tmp_path / f"{name}.onnx") for name in names]
    with serving(tmp_path, *sources, "--turns") as server:

        def ask(number: int) -> int:
            body = np.full(8, number, np.float32).tobytes()
            with server.connect() as wire:
                return sum(wire.ask(raw_request(names[number % 3], body)).body.endswith(body) for _ in range(100))

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(ask, range(6))) == [100] * 6
        assert server.metric("tailcut_rows_in_use") == 0
        assert server.stop() == 0
