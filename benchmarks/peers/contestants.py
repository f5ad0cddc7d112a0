"""Who is compared: each server, how it is installed, started and asked, and how its answer is read."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from reference_models import FAST_PRECISION

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build"
SHAPES = {"tiny": (256,), "ranker": (1024,), "resnet18": (3, 224, 224)}
PORT = 18200
WAIT_MS = {"mosec": 1, "litserve": 1, "bentoml": 1, "ray": 1, "pytriton": 1}
PACKAGES = {
    "mosec": ["mosec"],
    "fastapi": ["fastapi", "uvicorn[standard]"],
    "litserve": ["litserve"],
    "bentoml": ["bentoml"],
    "ray": ["ray[serve]"],
    "mlserver": ["mlserver"],
    "pytriton": ["nvidia-pytriton"],
}
# Each peer's tries: workers, largest batch, threads of a session.
TRIES = dict.fromkeys(PACKAGES, ((1, 1, 2), (1, 32, 2))) | {"fastapi": ((1, 1, 2),)}
TRIES["mosec"] += ((2, 32, 1),)
TAILCUT = {
    "tiny": Settings(
        engine=EngineOptions(threads=1),
        batching=BatchingSettings(max_batch_size=32, dispatch="inline"),
        io=IoSettings(busy_poll_us=100),
    ),
    "ranker": Settings(
        engine=EngineOptions(name="openvino", precision=FAST_PRECISION, threads=1),
        batching=BatchingSettings(max_batch_size=32, dispatch="adaptive"),
        io=IoSettings(busy_poll_us=100),
    ),
    "resnet18": Settings(
        engine=EngineOptions(name="openvino", precision=FAST_PRECISION, threads=2),
        batching=BatchingSettings(max_batch_size=1),
    ),
}
RAW = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


@dataclass
class Contestant:
    """A server under test: how it is started, and how it is asked."""

    label: str
    environment: Path
    command: list[str]
    variables: dict[str, str]
    path: str
    body: bytes
    headers: dict[str, str]
    answer: Callable[[bytes], np.ndarray]
    port: int = PORT
    cells: dict[int, list[tuple[float, float, float, int]]] = field(default_factory=dict)
    cold_s: list[float] = field(default_factory=list)
    memory_mb: float = 0.0
    failed: str = ""


def contestants(name: str, model: Path, peers: list[str]) -> list[Contestant]:
    x = np.random.default_rng(0).standard_normal((1, *SHAPES[name])).astype(np.float32)
    profile = BUILD / f"{name}.peers.profile.toml"
    Profile.of_model(model, TAILCUT[name]).save(profile)
    home = BUILD / "peers" / "tailcut"
    serve = [str(home / "bin" / "tailcut"), "serve", str(profile), "--port", str(PORT)]
    raw = RAW | {"Inference-Header-Content-Length": "0"}
    infer = f"/v2/models/{name}/infer"
    result = [Contestant("tailcut", home, serve, {}, infer, x.tobytes(), raw, tail_floats(model))]
    return result + [of_peer(peer, tried, model, x) for peer in peers for tried in TRIES[peer]]


def of_peer(peer: str, tried: tuple[int, int, int], model: Path, x: np.ndarray, port: int = PORT) -> Contestant:
    workers, batch, threads = tried
    folder = BUILD / "peers" / peer
    python = str(folder / "bin" / "python")
    variables = {
        "PEER_MODEL": str(model),
        "PEER_PORT": str(port),
        "PEER_WORKERS": str(workers),
        "PEER_BATCH": str(batch),
        "PEER_THREADS": str(threads),
        "PEER_WAIT_MS": str(WAIT_MS.get(peer, 1)),
    }
    label = f"{peer}, {'no batching' if batch == 1 else f'batch {batch}'}" + (
        f", {workers} workers" if workers > 1 else ""
    )
    command, path, body, headers, answer = (
        [python, str(HERE / f"{peer}_server.py")],
        "/infer",
        x.tobytes(),
        RAW,
        tail_floats(model),
    )
    if peer == "mosec":
        command += ["--address", "127.0.0.1", "--port", str(port)]
        path = "/inference"
    elif peer == "bentoml":
        command = [str(folder / "bin" / "bentoml"), "serve", "bentoml_service:Inference", "--working-dir", str(HERE)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        variables |= {"BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "1"}
        body, headers, answer = json.dumps({"x": x.tolist()}).encode(), JSON, json_list
    elif peer == "mlserver":
        command, path = (
            [str(folder / "bin" / "mlserver"), "start", str(mlserver_folder(folder, batch, port))],
            "/v2/models/model/infer",
        )
        entry = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
        body, headers, answer = json.dumps({"inputs": [entry]}).encode(), JSON, v2_json
        variables["PYTHONPATH"] = str(HERE)
    elif peer == "pytriton":
        path = "/v2/models/model/infer"
        whole = infer_payload(LoadTarget(port=port), "model", {"x": x}, "binary").request
        lead, _, body = whole.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in lead.decode().split("\r\n")[1:])
        headers = {key: lines[key] for key in ("Content-Type", "Inference-Header-Content-Length")}
    return Contestant(label, folder, command, variables, path, body, headers, answer, port)


def mlserver_folder(folder: Path, batch: int, port: int) -> Path:
    """MLServer is configured by files in a folder."""
    place = folder / f"settings-{batch}"
    place.mkdir(exist_ok=True)
    server = {
        "http_port": port,
        "host": "127.0.0.1",
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
    }
    (place / "settings.json").write_text(json.dumps(server | {"debug": False, "logging_settings": None}))
    waiting = {"max_batch_size": batch, "max_batch_time": 0.001} if batch > 1 else {}
    (place / "model-settings.json").write_text(
        json.dumps({"name": "model", "implementation": "mlserver_runtime.Inference"} | waiting)
    )
    return place


def tail_floats(model: Path) -> Callable[[bytes], np.ndarray]:
    """The answer's last bytes are the output."""
    engine = open_engine(model, EngineOptions())
    width = engine.spec.outputs[0].shape[1] or 1
    engine.close()
    return lambda body: np.frombuffer(body[-4 * width :], np.float32)


def json_list(body: bytes) -> np.ndarray:
    return np.array(json.loads(body), np.float32).ravel()


def v2_json(body: bytes) -> np.ndarray:
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32).ravel()
