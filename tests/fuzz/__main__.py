"""Coverage-guided fuzzing of `tailcut.wire` with atheris, each target in a process of its own.

    python -m tests.fuzz [--seconds 20] [--target head]

Corpora grow in out/fuzz/NAME and are used again. A broken rule ends the run with its traceback, exit code 1, and the
input in out/fuzz.
"""

# ruff: noqa: T201  it is a program
import argparse
import os
import subprocess
import sys
from pathlib import Path

OUT = Path("out/fuzz")
TARGET = "TAILCUT_FUZZ_TARGET"


def fuzz(name: str) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tailcut.wire"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup(sys.argv, TARGETS[name][0])
    atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    from tests.fuzz.targets import TARGETS

    corpus = OUT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name][1]):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [f"-max_total_time={seconds}", "-max_len=2048", f"-artifact_prefix={OUT}/{name}-", "-verbosity=0"]
    command = [sys.executable, "-m", "tests.fuzz", *flags, "-print_final_stats=1", str(corpus)]
    done = subprocess.run(command, env=os.environ | {TARGET: name}, capture_output=True, text=True, check=False)
    stats = dict(line.removeprefix("stat::").split(":") for line in done.stderr.splitlines() if "stat::" in line)
    runs = stats.get("number_of_executed_units", "?").strip()
    verdict = "a rule broke" if done.returncode else "held"
    print(f"{name:10s}{runs:>12s} inputs, {len(list(corpus.iterdir()))} kept: {verdict}")
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)
    return done.returncode == 0


def main() -> int:
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--target", choices=list(TARGETS))
    args = parser.parse_args()
    names = [args.target] if args.target else list(TARGETS)
    held = [run(name, args.seconds) for name in names]
    return int(not all(held))


if __name__ == "__main__":
    if TARGET in os.environ:
        fuzz(os.environ[TARGET])
    sys.exit(main())
