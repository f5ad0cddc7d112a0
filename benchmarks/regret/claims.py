"""What a tune claims when there is nothing to gain, and how much its claim varies when there is.

    python benchmarks/regret/claims.py [--same 20] [--repeats 10] [--model ranker] [--budget 60s] [--same-budget 15]

First A/A tunes: the search is given nothing but configurations that are equal to the baseline (they differ in a setting
that has no effect on this model), so whatever is claimed is false. Limit: no claim in any of them, each of the two
headlines being held at 99 %. Then tunes of one model from the command line, one after the other, without what the ones
before them left. Limit: none is worse than its baseline; printed are the verified ratios and their spread.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from run import data_of, model_path, tune

from tailcut.lab.records import IntervalRecord
from tailcut.machine.fingerprint import fingerprint
from tailcut.report.tune_words import headline, more_traffic
from tailcut.runtime.settings import Settings
from tailcut.tuner.budget import SearchSize
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result import result
from tailcut.tuner.result_records import ModelRequest, TunedModel, TuneResult, Verification
from tailcut.tuner.search import Search
from tailcut.tuner.session import open_session
from tailcut.tuner.space import changed

EQUAL = 4  # configurations


class SameSettings(ModelSpace):
    """A space of the baseline alone, with thresholds for receiving into rows that no request of this model reaches."""

    @property
    def size(self) -> SearchSize:
        """Nothing is measured in process."""
        return SearchSize(0)

    def predicted(self) -> list[PredictedConfiguration]:
        """The baseline, several times."""
        base = self._session.base
        equal = [changed(base, io={"direct_bytes": base.io.direct_bytes + number}) for number in range(1, EQUAL + 1)]
        return [PredictedConfiguration(settings, 100.0, 1.0, 100.0, 0) for settings in equal]

    def refinements(self, winner: Settings) -> list[Settings]:
        """None."""
        return []

    def thrifty(self, winner: Settings) -> list[Settings]:
        """None."""
        return []


def claims(outcome: TuneResult) -> list[str]:
    """What a result says was gained."""
    checked = verification(outcome)
    text = [headline(outcome)[0]] if checked.p99_ratio and checked.p99_ratio.high < 1 else []
    return text + [words for words in [more_traffic(outcome)] if words]


def verification(outcome: TuneResult) -> Verification:
    """What was measured on fresh samples."""
    if outcome.verification is None:
        raise SystemExit(f"{outcome.model.name}: the tune was not verified")
    return outcome.verification


def same(name: str, budget_s: float, seed: int) -> TuneResult:
    wanted = TuneRequest(model_path(name), budget_s=budget_s, seed=seed, wire="json")
    session = open_session(wanted, lambda _: None)
    outcome = Search(session, SameSettings(session)).run()
    model = TunedModel.of(outcome.spec, name, str(wanted.model), "")
    asked = ModelRequest(
        memory_bytes=None,
        cpus=None,
        accuracy="",
        metric=None,
        wire="json",
        normalize=None,
        outputs=None,
        fix=None,
        local=False,
        device="cpu",
        budget_s=budget_s,
        seed=seed,
        slo_ms=None,
        data=None,
    )
    return result(outcome, model=model, machine=fingerprint(), objective=asked, command="")


def interval(ratio: IntervalRecord | None) -> str:
    return "unknown" if ratio is None else f"x{ratio.point:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--same", type=int, default=20, help="A/A tunes")
    parser.add_argument("--repeats", type=int, default=10, help="tunes of the model")
    parser.add_argument("--model", default="ranker")
    parser.add_argument("--budget", default="60s", help="of each tune of the model")
    parser.add_argument("--same-budget", type=float, default=15.0, help="seconds of each A/A tune")
    arguments = parser.parse_args()
    print(fingerprint())
    false = 0
    for number in range(arguments.same):
        outcome = same("tiny", arguments.same_budget, number)
        checked, text = verification(outcome), claims(outcome)
        false += bool(text)
        print(
            f"A/A {number + 1}: p99 {interval(checked.p99_ratio)}, throughput "
            f"{interval(checked.throughput_ratio)}, {'CLAIMS ' + '; '.join(text) if text else 'nothing claimed'}",
            flush=True,
        )
    print(f"false claims: {false} of {arguments.same} (limit: 0)")
    tails, rates, worse = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, **data_of(arguments.model))
        for number in range(arguments.repeats):
            began = time.monotonic()
            model = model_path(arguments.model)
            outcome, _ = tune(model, data, arguments.budget, Path(folder), "--fresh", "--seed", str(number))
            checked = verification(outcome)
            tail, rate = checked.p99_ratio, checked.throughput_ratio
            worse += (tail is not None and tail.low > 1) or (rate is not None and rate.high < 1)
            tails += [1 / tail.point] if tail else []
            rates += [rate.point] if rate else []
            more = more_traffic(outcome) or "no more traffic shown"
            print(
                f"{arguments.model} {number + 1}: p99 {interval(tail)}, throughput {interval(rate)}, "
                f"{more}; {time.monotonic() - began:.0f} s; {outcome.winner}",
                flush=True,
            )
    for words, gains in (("p99 shorter by", tails), ("throughput", rates)):
        if gains:
            print(f"{words}: x{min(gains):.2f} to x{max(gains):.2f}, median x{statistics.median(gains):.2f}")
    print(f"worse than the baseline: {worse} of {arguments.repeats} (limit: 0)")


if __name__ == "__main__":
    main()
