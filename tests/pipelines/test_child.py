"""A stage's process: what it imports, what it leaves to the server, and what ends with it."""

from tailcut import Model
from tests.pipelines.test_faults import PIPELINE, STAGE, written
from tests.pipelines.test_loading import HEAD

STANDARD = ("random", "queue", "tokenize", "tempfile")  # which tailcut, numpy or the stage import
ROW = {"x": [1.0]}


def stage_of(body: str, settings: str = "") -> str:
    """A stage whose function is this."""
    return STAGE.replace("@stage(", f"@stage({settings}").replace("return x", body) + PIPELINE


def test_files_of_the_current_folder_replace_no_standard_module(tmp_path, monkeypatch):
    """They have nothing to do with the pipeline, unless they are beside it: there, too, the library comes first."""
    (tmp_path / "p").mkdir()
    for name in STANDARD:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
        (tmp_path / "p" / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    body = f"import {', '.join(STANDARD)}; return x"
    with Model.open(written(tmp_path / "p", HEAD, stage_of(body))) as model:
        assert model.infer_sync(ROW)["y"] == [1]


def test_it_imports_what_the_program_does(tmp_path, monkeypatch):
    """The program has added a folder to its import path."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "p").mkdir()
    (tmp_path / "lib" / "added_for_child.py").write_text("FACTOR = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    body = "import added_for_child; return x * added_for_child.FACTOR"
    with Model.open(written(tmp_path / "p", HEAD, stage_of(body))) as model:
        assert model.infer_sync(ROW)["y"] == [5]
