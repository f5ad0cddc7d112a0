"""NVIDIA's perf_analyzer, unchanged, against `tailcut serve`: over HTTP, over gRPC, and over a gRPC stream.

    python benchmarks/perf_analyzer.py [--model FILE.onnx] [--requests 2000] [--concurrency 4]

The wheel of tritonclient 2.51.0 carries the program. It gets a virtual environment of its own under
build/perf_analyzer (about 40 MB), because it wants NVIDIA's CUDA runtime library even where there is no GPU. It also
needs libb64, which Debian has as libb64-0d. Linux on x86-64 only.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make
from serving import BUILD, first_line, running

FOLDER = BUILD / "perf_analyzer"
PACKAGES = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12")
SHARED = ["--shared-memory", "system"]
RUNS = {
    "HTTP": ["-i", "http"],
    "gRPC": ["-i", "grpc"],
    "gRPC, a stream": ["-i", "grpc", "--streaming", "--async"],
    "HTTP, shared memory": ["-i", "http", *SHARED],
    "gRPC, shared memory": ["-i", "grpc", *SHARED],
}


def missing() -> str | None:
    """Why perf_analyzer cannot run on this machine, or None."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "perf_analyzer is built for Linux on x86-64"
    try:
        ctypes.CDLL("libb64.so.0d")
    except OSError:
        return "libb64 is missing: apt-get install libb64-0d"
    return None


def installed() -> Path | None:
    """The program, where it has been set up already."""
    program = FOLDER / "bin" / "perf_analyzer"
    return program if program.exists() else None


def install() -> Path:
    """Set the program up; the second call finds it there."""
    program = installed()
    if program is None:
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        subprocess.run([str(FOLDER / "bin" / "pip"), "install", "-q", "--no-deps", *PACKAGES], check=True)
        program = FOLDER / "bin" / "perf_analyzer"
    return program


def analyze(program: Path, model: str, address: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """One run of it."""
    cuda = next(FOLDER.glob("lib/*/site-packages/nvidia/cuda_runtime/lib"))
    command = [str(program), "-m", model, "-u", address, *arguments]
    env = os.environ | {"LD_LIBRARY_PATH": str(cuda)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=4)
    args = parser.parse_args()
    reason = missing()
    if reason:
        raise SystemExit(reason)
    BUILD.mkdir(exist_ok=True)
    program = install()
    model = args.model or make("tiny", BUILD / "models")
    command = [sys.executable, "-m", "tailcut", "serve", str(model), "--port", "0", "--grpc-port", "0", "--json"]
    command += ["--shared-memory", "/"]  # it names its regions after the tensors
    with running(command) as child:
        address = json.loads(first_line(child))
        name = address["models"][0]["name"]
        load = ["--request-count", str(args.requests), "--concurrency-range", str(args.concurrency)]
        for label, arguments in RUNS.items():
            port = address["port" if label.startswith("HTTP") else "grpc_port"]
            place = f"localhost:{port}"
            print(f"\n== {label}: perf_analyzer -m {name} -u {place} {' '.join([*arguments, *load])}")
            done = analyze(program, name, place, [*arguments, *load])
            print(done.stdout.strip(), done.stderr.strip(), sep="\n", flush=True)
            if done.returncode:
                raise SystemExit(f"perf_analyzer ended with {done.returncode}")


if __name__ == "__main__":
    main()
