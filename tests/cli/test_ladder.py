"""`tailcut ladder`: every setting, as a table and as JSON."""

import pytest
from tests.schemas import validated

from tailcut.cli.main import main
from tailcut.tuner.catalogue import CATALOGUE
from tailcut.tuner.space import RUNG_FIELDS


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


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object, as the schema says, with the same settings."""
    assert main(["ladder", "--json"]) == 0
    result = validated("ladder", capsys.readouterr().out)
    assert [rung["name"] for rung in result["rungs"]] == list(RUNG_FIELDS)
    assert [item["name"] for rung in result["rungs"] for item in rung["settings"]] == [item.name for item in CATALOGUE]
