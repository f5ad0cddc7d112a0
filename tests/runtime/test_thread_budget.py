"""Which engine options follow from the number of models, and what of several profiles does not go together."""

import msgspec
import pytest

from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import ModelRef, Neighbour, Profile, Together
from tailcut.runtime.settings import IoSettings, Settings
from tailcut.runtime.thread_budget import beside_others, conflicts, mismatches, spins


def profile(name: str, engine: EngineOptions, *, io: IoSettings = IoSettings(), beside: str = "") -> Profile:  # noqa: B008  frozen
    neighbour = Neighbour(name=beside, sha256=beside, rate=1.0, limit_ms=1.0)
    return Profile(
        model=ModelRef(path=name, sha256=name, name=name),
        settings=Settings(engine=engine, io=io),
        together=Together(rate=1.0, limit_ms=1.0, neighbours=(neighbour,)) if beside else None,
    )


QUIET = EngineOptions(threads=2, spinning=False)
SPINNING = EngineOptions(threads=2)
ONE = EngineOptions(threads=1)


@pytest.mark.parametrize(("models", "spinning"), [(1, True), (2, False), (9, False)])
def test_a_bare_model_spins_only_alone(models: int, spinning: bool) -> None:
    """Its threads stay: while its neighbours are idle it is as quick as alone."""
    result = beside_others(EngineOptions(threads=4), models)
    assert (result.threads, result.spinning) == (4, spinning)
    assert beside_others(QUIET, models) == QUIET


@pytest.mark.parametrize(
    ("profiles", "words"),
    [
        pytest.param([profile("a", SPINNING)], [], id="one model"),
        pytest.param([profile("a", ONE), profile("b", ONE)], [], id="a thread each"),
        pytest.param([profile("a", QUIET), profile("b", QUIET)], ["a, b: the profiles have 4 engine"], id="too many"),
        pytest.param(
            [profile("a", SPINNING), profile("b", ONE)], ["3 engine threads", "a: engine threads spin"], id="spin"
        ),
        pytest.param(
            [
                profile("a", msgspec.structs.replace(SPINNING, name="openvino")),
                profile("b", EngineOptions(spinning=False)),
            ],
            [],
            id="openvino does not spin, and threads of a bare model are no profile's",
        ),
        pytest.param(
            [profile("a", ONE, io=IoSettings(busy_poll_us=100)), profile("b", ONE)],
            ["a: io.busy_poll_us"],
            id="polling",
        ),
        pytest.param(
            [profile("a", SPINNING, beside="b"), profile("b", SPINNING, beside="a")], [], id="measured together"
        ),
        pytest.param(
            [profile("a", SPINNING, beside="b"), profile("b", ONE)],
            ["3 engine threads", "a: engine threads spin"],
            id="only one measured so",
        ),
    ],
)
def test_conflicting_profiles_are_reported(profiles: list[Profile], words: list[str]) -> None:
    """A line each, on two CPUs; profiles that were measured with just one another are left alone."""
    result = conflicts(profiles, 2)
    assert len(result) == len(words)
    assert all(word in line for word, line in zip(words, result, strict=True))


def test_a_pool_of_one_has_no_thread_to_spin() -> None:
    """Only the caller's own, which returns."""
    assert spins(SPINNING)
    assert not spins(ONE)
    assert not spins(QUIET)


def test_the_models_of_a_pipeline_are_neighbours_of_the_others() -> None:
    """They are what was measured; those of one pipeline alone do not conflict with each other."""
    first, second, third = (profile(name, QUIET, beside=beside) for name, beside in (("a", "b"), ("b", "a"), ("c", "")))
    assert mismatches([[first], [second]], 2) == []
    assert mismatches([[first, second]], 2) == []
    assert mismatches([[third, profile("d", QUIET)]], 2) == []
    lines = mismatches([[first, third], [second]], 2)
    assert [line.partition(":")[0] for line in lines] == ["a", "b", "a, c, b"]
