"""Every mistake of a new user is one line, with the file and the place."""

import re
import sys
from importlib import import_module

import pytest

from tailcut import Model
from tailcut.errors import MissingFileError, TailcutError, UsageError
from tailcut.pipelines.loading import forget, import_path, load_pipeline, parse_path, take_pipeline

HEAD = "from tailcut import Pipeline, stage\n\n\n"
STAGE = '@stage(inputs={"x": "FP32"}, outputs={"y": "FP32"})\ndef f(x):\n    return x\n\n\n'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pipeline = 1\n", "p.py: pipeline is a int, not a tailcut.Pipeline"),
        ("other = 1\n", "p.py: has no variable 'pipeline'; it has no Pipeline"),
        (HEAD + STAGE + "mine = Pipeline('p', [f])\n", "p.py: has no variable 'pipeline'; there is mine"),
        ("import os\nimport nothing_of_that_name\n", "p.py:2: ModuleNotFoundError: No module named"),
        ("x = 1\ndef f(:\n", "p.py:2: SyntaxError"),
        ("def f():\n    return 1 / 0\n\nf()\n", "p.py:2: ZeroDivisionError"),
        (HEAD + STAGE.replace("FP32", "float32", 1), "p.py:4: stage 'f': tensor 'x': unknown dtype 'float32'"),
        (HEAD + STAGE + "pipeline = Pipeline('p', [len])\n", "p.py:9: .*a bare function: add @stage"),
        (HEAD + STAGE + "pipeline = Pipeline('p', [f, 'm.onnx'])\n", "pipeline 'p': .*m.onnx.*"),
        (HEAD + STAGE + "pipeline = Pipeline('p', [f, 'm.bin'])\n", "m.bin is neither a profile .* nor a model"),
        ("raise SystemExit(3)\n", "p.py:1: SystemExit: 3"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, source, message):
    """No traceback, whatever the file does."""
    (tmp_path / "p.py").write_text(source)
    with pytest.raises(TailcutError, match=message) as caught:
        Model.open(f"{tmp_path}/p.py:pipeline")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    """Named with its whole path."""
    with pytest.raises(MissingFileError, match=re.escape(f"{tmp_path}/p.py: no such file")):
        Model.open(f"{tmp_path}/p.py:pipeline")


def test_a_file_without_a_variable(tmp_path):
    """Says how a pipeline is named."""
    with pytest.raises(UsageError, match=r"write FILE.py:VARIABLE"):
        Model.open(f"{tmp_path}/p.py")


def test_a_stage_that_only_its_process_cannot_import(tmp_path):
    """The error repeats what the process reported."""
    (tmp_path / "p.py").write_text(
        "import os, sys\nif 'tailcut.pipelines.child' in str(sys.orig_argv):\n    os.nothing\n"
        + HEAD
        + STAGE
        + "pipeline = Pipeline('p', [f])\n"
    )
    with pytest.raises(UsageError, match=r"p\.py:3: AttributeError"):
        Model.open(f"{tmp_path}/p.py:pipeline")


def test_a_file_that_opens_its_own_pipeline_says_where_to_do_so(tmp_path):
    """Each import would open it, which imports it; where it is a program, it opens it."""
    (tmp_path / "p.py").write_text(
        f"from tailcut import Model\n{HEAD}{STAGE}pipeline = Pipeline('p', [f])\n"
        "Model.open(__file__ + ':pipeline').close()\n"
    )
    for _ in range(2):  # the first one leaves nothing behind
        with pytest.raises(UsageError, match=r'p\.py:\d+: it opens its own pipeline .* if __name__ == "__main__":'):
            Model.open(f"{tmp_path}/p.py:pipeline")


def factor_of(path):
    """What its function multiplies by."""
    return load_pipeline(parse_path(path)).steps[0](1.0)


def test_what_a_file_imports_from_its_folder_is_loaded_anew_when_it_has_changed(tmp_path):
    """Packages without a file too; what has not changed is not executed again, and what cannot be stays as it was."""
    (tmp_path / "parts").mkdir()
    helper, count = tmp_path / "parts" / "helper_of_loading.py", tmp_path / "count_of_loading.py"
    count.write_text("import sys\nsys.loads_of_loading = getattr(sys, 'loads_of_loading', 0) + 1\n")
    helper.write_text("FACTOR = 2\n")
    (tmp_path / "p.py").write_text(
        "import count_of_loading\nfrom parts import helper_of_loading\n"
        + HEAD
        + STAGE.replace("return x", "return x * helper_of_loading.FACTOR")
        + "pipeline = Pipeline('p', [f])\n"
    )
    path = f"{tmp_path}/p.py:pipeline"
    assert factor_of(path) == 2
    assert factor_of(path) == 2
    assert sys.loads_of_loading == 1
    helper.write_text("FACTOR = 333\n")
    assert factor_of(path) == 333
    assert sys.loads_of_loading == 2
    helper.write_text("FACTOR =\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        load_pipeline(parse_path(path))
    assert sys.modules["parts.helper_of_loading"].FACTOR == 333
    helper.write_text("FACTOR = 4444\n")
    assert factor_of(path) == 4444


def test_modules_that_the_program_had_before_are_not_loaded_again(tmp_path, monkeypatch):
    """They are its own: there is one of each."""
    (tmp_path / "own_of_loading.py").write_text("FACTOR = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = import_module("own_of_loading")
    (tmp_path / "p.py").write_text(
        "import own_of_loading\n"
        + HEAD
        + STAGE.replace("return x", "return x * own_of_loading.FACTOR")
        + "pipeline = Pipeline('p', [f])\n"
    )
    path = f"{tmp_path}/p.py:pipeline"
    assert factor_of(path) == 2
    (tmp_path / "own_of_loading.py").write_text("FACTOR = 333\n")
    assert factor_of(path) == 2
    assert sys.modules["own_of_loading"] is own


def words_pipeline(folder, factor):
    """The path of a pipeline that multiplies by what a module of its folder says, whose name others use as well."""
    folder.mkdir(parents=True)
    (folder / "words_of_loading.py").write_text(f"FACTOR = {factor}\n")
    function = STAGE.replace("return x", "return x * words_of_loading.FACTOR")
    (folder / "p.py").write_text(f"import words_of_loading\n{HEAD}{function}pipeline = Pipeline('p', [f])\n")
    return f"{folder}/p.py:pipeline"


def test_pipelines_of_two_folders_have_their_own_modules(tmp_path):
    """Whatever order they are loaded in, one folder within the other too; what has not changed is not loaded again."""
    first, second, inner = (
        words_pipeline(folder, factor)
        for folder, factor in ((tmp_path / "a", 2), (tmp_path / "b", 3), (tmp_path / "a" / "inner", 4))
    )
    assert [factor_of(path) for path in (first, second, inner)] == [2, 3, 4]
    assert factor_of(first) == 2
    module = sys.modules["words_of_loading"]
    assert [factor_of(path) for path in (second, inner, second, first)] == [3, 4, 3, 2]
    assert sys.modules["words_of_loading"] is module
    (tmp_path / "b" / "words_of_loading.py").write_text("FACTOR = 555\n")
    assert [factor_of(path) for path in (second, first)] == [555, 2]


def test_a_folder_comes_first_on_the_import_path(tmp_path, monkeypatch):
    """A module of another folder on the path does not hide the pipeline's own."""
    path = words_pipeline(tmp_path / "mine", 2)
    words_pipeline(tmp_path / "other", 3)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    assert factor_of(path) == 2


@pytest.mark.parametrize("name", ["my.solutions", "lib/python-models"])
def test_a_folder_whose_name_looks_installed(tmp_path, name):
    """Its modules are loaded anew when they change: only what lies under it can be an installed package."""
    path = words_pipeline(tmp_path / name, 2)
    assert factor_of(path) == 2
    (tmp_path / name / "words_of_loading.py").write_text("FACTOR = 333\n")
    assert factor_of(path) == 333


COUNTED = (
    "import sys\nsys.executions_of_loading = getattr(sys, 'executions_of_loading', 0) + 1\n"
    + HEAD
    + STAGE
    + "pipeline = Pipeline('p', [f])\nother = Pipeline('q', [f])\n"
)


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """The path of a pipeline's file that counts its executions, and what tells the count."""
    monkeypatch.setattr(sys, "executions_of_loading", 0, raising=False)
    (tmp_path / "p.py").write_text(COUNTED)
    return f"{tmp_path}/p.py", lambda: sys.executions_of_loading


def test_a_file_is_executed_once_for_each_opening(counted):
    """Whatever asks about its pipelines before; then again, although nothing has changed."""
    file, count = counted
    paths = [parse_path(f"{file}:{name}") for name in ("pipeline", "other")]
    for opening in (1, 2):
        for path in paths * 2:
            load_pipeline(path)
        for path in paths:
            assert take_pipeline(path) is load_pipeline_of(path)
        assert count() == opening
    forget(paths[0])
    load_pipeline(paths[0])
    assert count() == 3


def load_pipeline_of(path):
    """The pipeline that is there, without a question for it."""
    (module,) = [module for module in sys.modules.values() if getattr(module, "__file__", "") == str(path.file)]
    return getattr(module, path.attribute)


def test_opening_a_model_executes_its_file_once(counted):
    """Its profile is made of the same execution."""
    file, count = counted
    for opening in (1, 2):
        Model.open(f"{file}:pipeline", trust=True).close()
        assert count() == opening


def test_a_file_that_has_changed_is_executed_again(counted, tmp_path):
    """It, or a module of its folder."""
    file, count = counted
    (tmp_path / "part_of_loading.py").write_text("FACTOR = 2\n")
    path = parse_path(f"{file}:pipeline")
    (tmp_path / "p.py").write_text("import part_of_loading\n" + COUNTED)
    load_pipeline(path)
    (tmp_path / "part_of_loading.py").write_text("FACTOR = 333\n")
    for _ in range(2):
        load_pipeline(path)
    assert count() == 2
    (tmp_path / "p.py").write_text(COUNTED)
    load_pipeline(path)
    assert count() == 3


def test_what_a_file_prints_goes_to_standard_error(tmp_path, capsys):
    """Standard output has the results of commands."""
    (tmp_path / "p.py").write_text("print('imported')\n" + COUNTED)
    load_pipeline(parse_path(f"{tmp_path}/p.py:pipeline"))
    assert capsys.readouterr() == ("", "imported\n")


def test_a_file_may_change_the_working_directory(tmp_path, monkeypatch):
    """Its path is read before."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p.py").write_text("import os\nos.chdir(os.path.dirname(__file__))\n" + COUNTED)
    monkeypatch.chdir(tmp_path)
    with Model.open("sub/p.py:pipeline", trust=True) as model:
        assert model.infer_sync({"x": [1.0]})["y"] == [1]


def test_the_standard_library_comes_before_the_folder(tmp_path, monkeypatch):
    """A file that is called as one of its modules is not imported in its place, by whatever is imported later."""
    monkeypatch.delitem(sys.modules, "sched", raising=False)
    (tmp_path / "sched.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "p.py").write_text("import sched\nsched.scheduler\n" + COUNTED)
    load_pipeline(parse_path(f"{tmp_path}/p.py:pipeline"))
    assert str(tmp_path) in sys.path
    assert str(tmp_path) not in import_path()
