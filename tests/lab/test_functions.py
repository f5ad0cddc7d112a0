"""A user's own function by name: found beside the command, or refused in one line that says why."""

from pathlib import Path

import pytest

from tailcut.errors import UsageError
from tailcut.lab.functions import import_function


def test_a_function_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one inside a class, by dots."""
    (tmp_path / "beside_me.py").write_text("class Box:\n    def one():\n        return 1\n")
    monkeypatch.chdir(tmp_path)
    assert import_function("beside_me:Box.one")() == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json", "write MODULE:FUNCTION"),
        (":dumps", "write MODULE:FUNCTION"),
        ("no_such_module_here:f", "cannot be imported: ModuleNotFoundError"),
        ("json:no.such", "json has no no.such"),
        ("json:__doc__", "is not a function"),
    ],
)
def test_what_is_no_function(name: str, message: str) -> None:
    """Each kind of mistake has its words."""
    with pytest.raises(UsageError, match=message):
        import_function(name)
