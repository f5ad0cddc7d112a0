"""What deciding about a model's rows costs at start: the analysis of its graph and the run-time proof.

    python benchmarks/start_up.py [--models tiny,resnet18,encoder] [--rounds 5]

Each cell is the median of fresh processes, in milliseconds: the whole of `Model.open` (largest batch 32, warm-up
included, libraries imported before), and of that the analysis and the proof.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make
from serving import BUILD

PROGRAM = """
import json, sys, time
from pathlib import Path
import tailcut.engines.graph as graph
import tailcut.engines.onnxruntime, tailcut.engines.openvino
import tailcut.runtime.opening.row_proof as row_proof
from tailcut.engines.base import EngineOptions
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
took = {"analysis": 0.0, "proof": 0.0}
def timed(module, name, what):
    function = getattr(module, name)
    def call(*arguments, **more):
        began = time.perf_counter()
        try:
            return function(*arguments, **more)
        finally:
            took[what] += 1e3 * (time.perf_counter() - began)
    setattr(module, name, call)
timed(graph, "analyse_rows", "analysis")
timed(row_proof, "prove_rows", "proof")
settings = Settings(engine=EngineOptions(name=sys.argv[2]), batching=BatchingSettings(max_batch_size=32))
profile = Profile.of_model(Path(sys.argv[1]), settings)
began = time.perf_counter()
with Model.open(profile) as model:
    took["whole"] = 1e3 * (time.perf_counter() - began)
    assert model.spec.batched, model.rows.reason
print(json.dumps(took))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,resnet18,encoder")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    print(f"{'milliseconds':28s}{'Model.open':>12s}{'analysis':>10s}{'proof':>8s}")
    for name in args.models.split(","):
        model = make(name, BUILD / "models")
        for engine in ("onnxruntime", "openvino"):
            runs = []
            for _ in range(args.rounds):
                command = [sys.executable, "-c", PROGRAM, str(model), engine]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
            whole, analysis, proof = (statistics.median(run[k] for run in runs) for k in ("whole", "analysis", "proof"))
            print(f"{f'{name}, {engine}':28s}{whole:>12,.0f}{analysis:>10,.1f}{proof:>8,.0f}", flush=True)


if __name__ == "__main__":
    main()
