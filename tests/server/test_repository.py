"""The models of a repository that is looked at again and again, and what clients are told of those that do not load."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.triton.repositories import add_model, twice

from tailcut.cli.serving.model_repository import ControlMode, RepositoryStart, RepositoryStarted, start_library
from tailcut.errors import MissingModelFileError
from tailcut.runtime.limits import Limits
from tailcut.server.load_failures import without_folders, without_folders_of
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.triton import library as library_module
from tailcut.triton.library import Overrides


def started(folder: Path) -> RepositoryStarted:
    start = RepositoryStart(folder, ControlMode.POLL, (), 0.01)
    return start_library(start, lambda: Overrides(Limits(), measures=False))


def polled(there: RepositoryStarted, *changes: tuple[Callable[[], Any], Callable[[ModelRepository], bool]]) -> None:
    """Look at the files all the time while they change: each change, and what is waited for then."""

    async def run() -> None:
        repository = ModelRepository(there.models, library=there.library, failed=there.failed)
        repository.watch(there.poll_s)
        for change, is_done in changes:
            change()
            async with asyncio.timeout(20):
                while not is_done(repository):  # noqa: ASYNC110  a repository that is read again tells nobody
                    await asyncio.sleep(0.01)
        repository.stop_watching()
        repository.close()

    asyncio.run(run())


def serves(name: str) -> Callable[[ModelRepository], bool]:
    return lambda repository: bool(repository.versions(name))


def test_a_fault_in_one_model_costs_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start and later, whatever it raises: the log has the traceback, the index the reason."""
    add_model(tmp_path, "bad")
    add_model(tmp_path, "one")
    real = library_module.profile_of
    monkeypatch.setattr(
        library_module, "profile_of", lambda folder, *rest: {}[99] if folder.name == "bad" else real(folder, *rest)
    )
    there = started(tmp_path)
    assert [served.name for served in there.models] == ["one"]
    assert there.failed["bad"].reason == "KeyError: 99"
    (tmp_path / "bad" / "more").touch()
    polled(
        there,
        (lambda: None, lambda _: len([line for line in caplog.messages if line.startswith("bad: ")]) == 2),
        (lambda: add_model(tmp_path, "three"), serves("three")),
    )
    records = [record for record in caplog.records if record.message == "bad: not loaded: KeyError: 99"]
    assert all(record.exc_info is not None for record in records)


@pytest.mark.parametrize("served", [True, False])
def test_a_version_that_cannot_be_replaced_still_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, served: bool
) -> None:
    """The log says so, and only then."""
    add_model(tmp_path, "one")
    config = tmp_path / "two" / "config.pbtxt"
    add_model(tmp_path, "two")
    text = config.read_text()
    if not served:
        config.write_text("nonsense")
    there = started(tmp_path)
    caplog.clear()

    def failed(_: ModelRepository) -> bool:
        return any("two: not loaded: " in message for message in caplog.messages)

    polled(there, (lambda: config.write_text(f"{text} more nonsense"), failed))
    [line] = [message for message in caplog.messages if message.startswith("two: not loaded: ")]
    assert line.endswith("; the old version still answers") is served


def test_a_look_that_fails_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nobody foresaw how: with its traceback."""
    add_model(tmp_path, "one")
    there = started(tmp_path)
    real, faults = library_module.state_of, iter(range(2))
    monkeypatch.setattr(library_module, "state_of", lambda path: real(path) if next(faults, None) is None else {}[path])
    polled(there, (lambda: add_model(tmp_path, "two"), serves("two")))
    records = [record for record in caplog.records if "the model repository cannot be read" in record.message]
    assert records
    assert all(record.exc_info is not None for record in records)


def test_the_index_lists_each_version_that_failed(tmp_path: Path) -> None:
    """Those that the policy chose; beside an old one that still answers; and the name alone where none is known."""
    models = tmp_path / "models"
    add_model(models, "several", versions=(1, 2, 3), more="version_policy { specific { versions: [ 1, 3 ] } }")
    (models / "several" / "3" / "model.onnx").write_text("none")
    (add_model(models, "unreadable") / "config.pbtxt").write_text("nonsense")
    add_model(models, "one")
    (models / "both").mkdir()
    (models / "both" / "config.pbtxt").write_text(twice("one", "several"))
    there = started(models)
    entries: list[dict[str, str]] = []

    def is_listed(repository: ModelRepository) -> bool:
        entries[:] = repository.index(ready=True)
        return ("one", "2") in {(entry["name"], entry.get("version")) for entry in entries}

    def add_version() -> None:
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "model.onnx").write_text("none")
        (tmp_path / "2").rename(models / "one" / "2")

    polled(there, (add_version, is_listed))
    states = [(entry["name"], entry.get("version"), entry.get("state")) for entry in entries]
    assert states == [
        ("one", "1", "READY"),
        ("both", "1", "UNAVAILABLE"),
        ("one", "2", "UNAVAILABLE"),
        ("several", "1", "UNAVAILABLE"),
        ("several", "3", "UNAVAILABLE"),
        ("unreadable", None, "UNAVAILABLE"),
    ]
    reasons = [entry["reason"].partition(": ")[0] for entry in entries if "reason" in entry]
    assert reasons == [
        "both/config.pbtxt",
        "one/2/model.onnx",
        *["several/3/model.onnx"] * 2,
        "unreadable/config.pbtxt",
    ]


def test_the_index_lists_what_is_known_while_the_folder_is_away(tmp_path: Path) -> None:
    """Served models answer all the same; one that failed has its reason."""
    models = tmp_path / "models"
    add_model(models, "one")
    (add_model(models, "bad") / "config.pbtxt").write_text("nonsense")
    there = started(models)
    repository = ModelRepository(there.models, library=there.library, failed=there.failed)
    before = repository.index(ready=True)
    assert [(entry["name"], entry["state"]) for entry in before] == [("one", "READY"), ("bad", "UNAVAILABLE")]
    models.rename(tmp_path / "away")
    assert repository.index(ready=True) == before
    repository.close()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("/a/models/m/1: has no model file", "m/1: has no model file"),
        ("/a/models/e/config.pbtxt: step 'm': /a/models/m/1/x: bad", "e/config.pbtxt: step 'm': m/1/x: bad"),
        ("'/a/models/m/1/x': see /usr/lib/y", "'m/1/x': see y"),
        ("/usr/models/m/1/x: bad\nvery", "x: bad very"),
        ("/a/models/m/c.pbtxt: name '../x' is", "m/c.pbtxt: name '../x' is"),
        ('see "/usr/lib/y"', 'see "y"'),
        ("/a/models/m/1/x: input 'net/in' (file=/usr/lib/y)", "m/1/x: input 'net/in' (file=y)"),
        ("node '/encoder/layer.0/MatMul' of block/fold", "node '/encoder/layer.0/MatMul' of block/fold"),
        ("see https://host/usr/page", "see https://host/usr/page"),
    ],
)
def test_paths_begin_at_the_repository(message: str, reason: str) -> None:
    """Clients know its models and versions, and not where it lies."""
    assert without_folders(MissingModelFileError(message), Path("/a/models")) == reason


@pytest.mark.parametrize(
    ("file", "message", "reason"),
    [
        ("net/model.onnx", "net/model.onnx: input 'net/in' is bad", "model.onnx: input 'net/in' is bad"),
        ("/usr/net dir/model.onnx", "/usr/net dir/model.onnx: see /usr/lib/w", "model.onnx: see w"),
        ("/usr/net/model.onnx", "/usr/net/model.onnx: model.onnx is bad", "model.onnx is bad"),
    ],
)
def test_a_model_of_the_command_line_is_named_by_its_file(file: str, message: str, reason: str) -> None:
    """Its folder is left out, and not what only looks like it."""
    profile = SimpleNamespace(model=SimpleNamespace(path=file), engine_file=file)
    served = SimpleNamespace(source=file, model=SimpleNamespace(profile=profile))
    assert without_folders_of(cast("ServedModel", served), MissingModelFileError(message)) == reason
