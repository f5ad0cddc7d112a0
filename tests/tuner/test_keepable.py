"""Whatever a tune may keep answers right: alone, from twelve clients at once, with more rows than the largest batch.

Models of tests/cases.py (all of them in `make test-all`), and one for each setting that none of them is offered, under
settings that together have every value of the search space; many of them in one server, as in real life. `make test`
asks openvino only with small changes of one configuration of each model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.cases import CASES
from tests.effort import some
from tests.servers import Server, serving
from tests.tuner.keepable import (
    BYTES,
    Kept,
    Tune,
    check_alone,
    check_together,
    covering,
    images,
    padded,
    pictures,
    quantised,
    traits_of,
)

from tailcut.lab.load import LoadTarget
from tailcut.machine.fingerprint import isa_flags
from tailcut.runtime.settings import Settings
from tailcut.tuner.space import INT8_FLAGS


@dataclass(frozen=True)
class Served:
    """A server, what it was given, and what of that a tune may keep."""

    server: Server
    offered: list[Kept]
    kept: list[Kept]


@pytest.fixture(scope="module")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tune]]:
    """What a tune of each model would choose from."""
    folder = tmp_path_factory.mktemp("models")
    cases = some(CASES) | {make.__name__: make(folder) for make in (quantised, padded, pictures, images)}
    tunes = {name: Tune(case, name, folder, BYTES if name == "images" else None) for name, case in cases.items()}
    yield tunes
    for tune in tunes.values():
        tune.close()


def raced(tune: Tune, engine: str) -> list[Settings]:
    """What races, with all values of the space between them."""
    return [item for item in covering(tune.offered(), traits_of) if item.engine.name == engine]


def refined(tune: Tune, index: int) -> list[Settings]:
    """With the small changes, one of each engine; another one for another place."""
    kinds: dict[str, list[Settings]] = {}
    for item in covering(tune.offered(), traits_of):
        kinds.setdefault(item.engine.name, []).append(item)
    return [tune.refined(several[index % len(several)]) for several in kinds.values()]


# Without instructions for int8, onnxruntime's sums of products overflow, and all answers may be wrong.
UNSURE = set() if INT8_FLAGS & isa_flags() else {"int8"}


@pytest.fixture(
    scope="module",
    params=[
        "onnxruntime",
        pytest.param("openvino", marks=pytest.mark.slow),
        pytest.param("refined", marks=pytest.mark.slow),
    ],
)
def served(
    request: pytest.FixtureRequest, tunes: dict[str, Tune], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server of profiles of all models, and those that the accuracy gate lets pass."""
    offered = []
    for index, tune in enumerate(tunes.values()):
        chosen = refined(tune, index) if request.param == "refined" else raced(tune, request.param)
        offered += [tune.profile(settings, number) for number, settings in enumerate(chosen)]
    with serving(tmp_path_factory.mktemp("server"), *(item.path for item in offered)) as server:
        target = LoadTarget(server.host, server.port)
        yield Served(server, offered, [item for item in offered if tunes[item.model].passes(item, target)])
        assert server.stop() == 0


@pytest.mark.slow
def test_what_the_gate_refuses(served: Served) -> None:
    """Nothing in float32 that fills nothing up; of the rest not all, so that some of each is asked below."""
    refused = [item for item in served.offered if item not in served.kept]
    assert not [item.name for item in refused if item.exact]
    padding = [{item.model for item in several if item.settings.batching.padding} for several in (refused, served.kept)]
    assert padding[0] <= {"sentences", "towers_of_words"}  # no mask tells them what is filling
    assert padding[1] <= {"padded", "pictures"}
    precisions = [{item.settings.engine.precision for item in several} for several in (served.offered, served.kept)]
    assert precisions[0] - precisions[1] <= UNSURE


@pytest.mark.slow
def test_alone(served: Served) -> None:
    """Each request by itself, one of them with more rows than any batch has."""
    check_alone(served.server.url, served.kept)


@pytest.mark.slow
def test_from_many_clients_at_once(served: Served) -> None:
    """Twelve of them ask one model at the same time, each another request."""
    check_together(served.server.url, served.kept)
