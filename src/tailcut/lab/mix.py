"""Load on several models of one server at once: the meaning of `--mix`, and one run of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Arrivals
from tailcut.lab.load import LoadResult, LoadTarget
from tailcut.lab.surroundings import SurroundingsMonitor
from tailcut.lab.together import Stream, open_together
from tailcut.lab.workload import Workload

_FORM = "write NAME=RATE or NAME=RATE:ARRIVALS, such as minilm=20,churn=100:constant"


@dataclass(frozen=True, slots=True)
class MixEntry:
    """One model of a mix; `kind` is the name of its arrival process, None for the default one."""

    model: str
    rate: float
    kind: str | None = None


def parse_mix(text: str, kinds: Sequence[str]) -> list[MixEntry]:
    """The models of `minilm=20,churn=100:constant`, in their order.

    Args:
        text: models with their requests per second, and an arrival process where it is not the default.
        kinds: names of arrival processes.

    Raises:
        UsageError: the text has another form, a model twice, a rate that is not greater than 0, or an unknown process.
    """
    entries: list[MixEntry] = []
    for part in text.split(","):
        name, equals, value = part.strip().rpartition("=")
        rate_text, colon, kind = value.partition(":")
        if not equals or not name:
            raise UsageError(f"--mix: {part.strip()!r} is not a model with its rate: {_FORM}")
        if colon and kind not in kinds:
            raise UsageError(f"--mix: {kind!r} is not an arrival process: name one of {', '.join(kinds)}")
        try:
            rate = float(rate_text)
        except ValueError:
            raise UsageError(f"--mix: {rate_text!r} is not the rate of {name}: {_FORM}") from None
        if not 0 < rate < float("inf"):
            raise UsageError(f"--mix: the rate of {name} must be greater than 0, and it is {rate_text}")
        if any(entry.model == name for entry in entries):
            raise UsageError(f"--mix names {name} twice: give one rate for each model")
        entries.append(MixEntry(name, rate, kind or None))
    return entries


def check_served(entries: Sequence[MixEntry], served: Sequence[str]) -> None:
    """Check that the server has all models of a mix.

    Raises:
        UsageError: it lacks one; the message names those that it has.
    """
    for entry in entries:
        if entry.model not in served:
            raise UsageError(f"--mix: the server has no model {entry.model!r}: it has {', '.join(served) or 'none'}")


def data_by_model(given: Sequence[str], models: Sequence[str]) -> dict[str, str]:
    """The files by model, from texts of the form `NAME=FILE`.

    Raises:
        UsageError: a text has another form, a model twice, or one that is not in the mix.
    """
    files: dict[str, str] = {}
    for argument in given:
        name = next((model for model in models if argument.startswith(f"{model}=")), None)
        if name is None:
            raise UsageError(f"--data: {argument!r} is not NAME=FILE with a model of --mix: {', '.join(models)}")
        if name in files:
            raise UsageError(f"--data gives {name} two files: give one for each model")
        files[name] = argument.removeprefix(f"{name}=")
    return files


def run_mix(  # noqa: PLR0913  a load test is its parameters
    target: LoadTarget,
    entries: Mapping[str, tuple[Workload, Arrivals]],
    *,
    duration_s: float,
    warmup_s: float,
    seed: int,
    say: Callable[[str], None],
) -> list[LoadResult]:
    """Make one run with all models at once; returns a result for each, in their order.

    The server's cost is per request of any model, because its threads serve all of them.

    Args:
        target: the server.
        entries: the workload and arrivals of each model.
        duration_s, warmup_s: of the run, in seconds.
        seed: of the arrivals, which are independent for each model.
        say: called with lines about the progress.
    """
    loads = [
        f"{model} {arrivals.rate:g}/s" + ("" if arrivals.name == "poisson" else f" {arrivals.name}")
        for model, (_, arrivals) in entries.items()
    ]
    say(f"open loops at once, {', '.join(loads)} for {duration_s:g} s ...")
    streams = [Stream(workload.payloads, arrivals) for workload, arrivals in entries.values()]
    results = SurroundingsMonitor(target, list(entries)).run(
        lambda: open_together(target, streams, duration_s=duration_s, seed=seed, warmup_s=warmup_s)
    )
    mixed = len(entries) > 1
    return [
        workload.labelled(result, mixed=mixed) for (workload, _), result in zip(entries.values(), results, strict=True)
    ]
