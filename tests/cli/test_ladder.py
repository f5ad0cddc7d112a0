"""`tailcut ladder`: every setting, as a table and as JSON."""

import pytest
from tests.schemas import validated

from tailcut.cli.main import main
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec
from tailcut.tuner.catalogue import CATALOGUE
from tailcut.tuner.refinements import refinements
from tailcut.tuner.space import BASELINE, RUNG_FIELDS, SpaceFacts, engine_choices


def test_the_table_has_every_setting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Below its rung, in the order of the rungs, with its field."""
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["ladder"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"{number}. {rung}") for number, rung in enumerate(RUNG_FIELDS, 1)]
    assert places == sorted(places)
    for item in CATALOGUE:
        assert item.name in text
        assert item.fields[0] in text


def test_processes_and_threads_are_those_that_a_tune_tries() -> None:
    """On sixteen CPUs: processes in powers of two up to half of them, and instances of all, half and fewer threads."""
    values = {item.name: item.values for item in CATALOGUE}
    ends = [(TensorSpec(name, DType.FP32, (None, 4)),) for name in ("x", "y")]
    known = SpaceFacts(ModelSpec("m", *ends, Rows.INDEPENDENT), 16, 16, frozenset())
    assert {item.io.workers for item in refinements(known, BASELINE)} == {1, 2, 4, 8}
    assert values["worker processes"].startswith("1, 2, 4, ... up to half of the CPUs")
    shapes = {(choice.threads, choice.instances) for choice in engine_choices(known)}
    assert {(1, 1), (1, 16), (16, 1), (15, 1), (8, 1), (8, 2), (4, 4)} <= shapes
    words = "1 x 1, 1 x all, all x 1, all but one x 1, half x 1 or 2, other powers of two"
    assert values["threads and instances"].startswith(words)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object, as the schema says, with the same settings."""
    assert main(["ladder", "--json"]) == 0
    result = validated("ladder", capsys.readouterr().out)
    assert [rung["name"] for rung in result["rungs"]] == list(RUNG_FIELDS)
    assert [item["name"] for rung in result["rungs"] for item in rung["settings"]] == [item.name for item in CATALOGUE]
