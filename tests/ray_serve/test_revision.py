"""What counts as another content of an application's files."""

from pathlib import Path

import pytest
from tests.engines.models import identity

from tailcut.models import digits_model
from tailcut.ray.application import make_plan
from tailcut.runtime.profile import Profile
from tailcut.spec import DType


def test_another_content_is_another_revision(tmp_path: Path) -> None:
    """The same path with other bytes has to replace the replicas."""
    model = tmp_path / "m.onnx"
    model.write_bytes(digits_model().read_bytes())
    first = make_plan(model)
    assert make_plan(model).revision == first.revision
    identity(DType.FP32, (None, 4), model)
    assert make_plan(model).revision != first.revision


def test_the_files_of_a_pipeline_are_its_revision(tmp_path: Path) -> None:
    """Its models, the profiles among them with their models, and the modules that it imports; it is not run."""
    model, inner, words = tmp_path / "m.onnx", tmp_path / "inner.onnx", tmp_path / "words.py"
    identity(DType.FP32, (None, 4), model)
    identity(DType.FP32, (None, 4), inner)
    words.write_text("LIST = 'list.txt'\n")
    (tmp_path / "list.txt").write_text("one")
    Profile.of_model(inner).save(tmp_path / "inner.profile.toml")
    (tmp_path / "p.py").write_text(
        "import words\nFILES = ['m.onnx', 'inner.profile.toml', '', '/']\nraise SystemExit\n"
    )
    seen = {make_plan(f"{tmp_path}/p.py:chain").revision}
    identity(DType.FP32, (None, 5), model)
    seen.add(make_plan(f"{tmp_path}/p.py:chain").revision)
    identity(DType.FP32, (None, 5), inner)
    seen.add(make_plan(f"{tmp_path}/p.py:chain").revision)
    (tmp_path / "list.txt").write_text("two")
    seen.add(make_plan(f"{tmp_path}/p.py:chain").revision)
    words.write_text("LIST = 'list.txt'  # another\n")
    seen.add(make_plan(f"{tmp_path}/p.py:chain").revision)
    assert len(seen) == 5
    assert make_plan(f"{tmp_path}/p.py:chain").revision in seen


@pytest.mark.parametrize(
    ("statement", "changed"),
    [
        ("import pkg", "pkg/__init__.py"),
        ("import pkg.inner.leaf", "pkg/inner/__init__.py"),
        ("import pkg.inner.leaf", "pkg/inner/leaf.py"),
        ("from pkg import side", "pkg/side.py"),
        ("from pkg.inner import leaf", "pkg/inner/leaf.py"),
        ("from pkg.inner.leaf import NAME", "pkg/inner/leaf.py"),
        ("from pkg import relative", "pkg/side.py"),
        ("from pkg import relative", "pkg/inner/leaf.py"),
        ("from pkg.inner import up", "pkg/side.py"),
        ("from pkg.inner import up", "words.py"),
        ("from pkg import side", "pkg/list.txt"),
    ],
)
def test_packages_belong_to_a_pipeline(tmp_path: Path, statement: str, changed: str) -> None:
    """The packages of its folder, their modules, and what those import, by absolute and relative names."""
    (tmp_path / "pkg" / "inner").mkdir(parents=True)
    for name, text in {
        "pkg/__init__.py": "",
        "pkg/side.py": "FILE = 'list.txt'",
        "pkg/list.txt": "one",
        "pkg/relative.py": "from . import side\nfrom .inner.leaf import NAME",
        "pkg/inner/__init__.py": "",
        "pkg/inner/leaf.py": "NAME = 1",
        "pkg/inner/up.py": "from .. import side\nimport words\nfrom ..... import beyond",
        "words.py": "",
        "unused.py": "",
        "p.py": statement,
    }.items():
        (tmp_path / name).write_text(f"{text}\n")
    first = make_plan(f"{tmp_path}/p.py:chain").revision
    (tmp_path / "unused.py").write_text("# another\n")
    assert make_plan(f"{tmp_path}/p.py:chain").revision == first
    (tmp_path / changed).write_text("# another\n")
    assert make_plan(f"{tmp_path}/p.py:chain").revision != first


def test_a_user_s_revision() -> None:
    """Another text is another revision, for what no file tells."""
    plans = [make_plan(digits_model(), revision=text) for text in ("", "1", "2", "1")]
    assert len({plan.revision for plan in plans}) == 3
    assert plans[1].revision == plans[3].revision
