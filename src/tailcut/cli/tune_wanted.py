"""The options of a tune in the form that the tuner expects."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailcut.tuner.records import TuneRequest
    from tailcut.tuner.result_records import ModelRequest


def budget_of(text: str) -> float:
    """The seconds of `--budget`.

    Raises:
        UsageError: it is not a duration, or too short.
    """
    from tailcut.durations import parse_duration
    from tailcut.errors import UsageError

    budget_s = parse_duration(text)
    if budget_s < 5:
        raise UsageError(f"--budget {text}: a tune needs at least 5 seconds")
    return budget_s


def wanted_of(
    model: Path,
    data: Path | None,
    rate: float | None,
    budget: str,
    accuracy: str,
    metric: str | None,
    wire: Any,
    seed: int,
) -> "TuneRequest":
    """The request for the tuner; reads the data.

    Raises:
        UsageError: an option is invalid, or the data cannot be read.
    """
    from tailcut.cli.options import load_data
    from tailcut.errors import UsageError
    from tailcut.lab.arrivals import check_count
    from tailcut.tuner.accuracy import load_metric, parse_bound
    from tailcut.tuner.records import TuneRequest

    arrays = load_data(data) if data else None
    budget_s = budget_of(budget)
    check_count(rate or 0.0, budget_s)
    bound = parse_bound(accuracy)
    if metric is not None and bound is None:
        raise UsageError("--metric needs a number as --accuracy, such as 0.999")
    return TuneRequest(
        model=model,
        data=arrays,
        rate=rate,
        budget_s=budget_s,
        bound=bound,
        metric=load_metric(metric) if metric else None,
        wire=wire,
        seed=seed,
    )


def cpus_of(asked: int | None) -> int | None:
    """The CPUs of `--cpus`, at most as many as this process may use; if fewer, a line on stderr says so."""
    import sys

    from tailcut.machine.quota import usable_cpus_and_why

    usable = usable_cpus_and_why()
    if asked is None or asked <= usable.count:
        return asked
    print(f"tailcut: --cpus {asked}: {usable.reason}: tuning for {usable.count}", file=sys.stderr)
    return usable.count


def names_in(text: str | None, option: str) -> tuple[str, ...]:
    """The names in `a, b`, without the spaces around them; empty for None.

    Raises:
        UsageError: a name is empty.
    """
    from tailcut.errors import UsageError

    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"{option} {text!r} has an empty name: write NAME or NAME,NAME, or leave {option} out")
    return names


def fixed_of(text: str | None) -> tuple[str, ...]:
    """The dimensions of `--fix`.

    Raises:
        UsageError: one is invalid.
    """
    from tailcut.engines.base import parse_fixed_dim
    from tailcut.errors import UnsupportedError, UsageError

    fixed = names_in(text, "--fix")
    for dim in fixed:
        try:
            parse_fixed_dim(dim)
        except UnsupportedError as error:
            raise UsageError(str(error).replace("fixed_dims", "--fix", 1)) from None
    return fixed


def asked_of(
    wanted: "TuneRequest",
    accuracy: str,
    metric: str | None,
    normalize: str | None,
    outputs: str | None,
    fix: str | None,
    data: Path | None,
) -> "ModelRequest":
    """The options of the command line, as the result repeats them."""
    from tailcut.tuner.result_records import ModelRequest

    return ModelRequest(
        slo_ms=wanted.slo_ms,
        memory_bytes=wanted.constraints.memory_bytes,
        cpus=wanted.constraints.cpus,
        accuracy=accuracy,
        metric=metric,
        wire=wanted.wire,
        normalize=normalize,
        outputs=outputs,
        fix=fix,
        local=wanted.local,
        device=wanted.device,
        budget_s=wanted.budget_s,
        seed=wanted.seed,
        data=str(data) if data else None,
    )
