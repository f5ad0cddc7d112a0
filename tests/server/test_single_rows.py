"""A model whose batch is fixed at 1, behind a real server."""

from pathlib import Path

import numpy as np
from tests.engines.models import identity
from tests.servers import json_request, raw_request, serving

from tailcut.spec import DType


def test_single_rows_are_served_raw_and_as_json(tmp_path: Path) -> None:
    """One row goes straight into the slab; two are refused, naming what the model takes."""
    x = np.arange(8, dtype=np.float32)
    with serving(tmp_path, identity(DType.FP32, (1, 8), tmp_path / "one.onnx")) as server, server.connect() as wire:
        assert wire.ask(raw_request("one", x.tobytes())).body.endswith(x.tobytes())
        refused = wire.ask(raw_request("one", x.tobytes() * 2))
        assert refused.status == 400
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": x.tolist()}
        assert wire.ask(json_request("one", {"inputs": [entry]})).json()["outputs"][0]["data"] == x.tolist()
        entry |= {"shape": [2, 8], "data": x.tolist() * 2}
        refused = wire.ask(json_request("one", {"inputs": [entry]}))
        assert refused.status == 400
        assert "[1, 8]" in refused.json()["error"]
        assert server.metric("tailcut_rows_in_use") == 0
