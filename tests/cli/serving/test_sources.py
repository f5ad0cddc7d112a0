"""The SOURCEs of a command line: what each names, and which are refused."""

from pathlib import Path

import pytest
from tests.engines.models import perceptron

from tailcut.cli.serving.sources import Source, SourceReader, distinct_names, need_sources, programs_of
from tailcut.engines.base import CudaOptions, EngineOptions
from tailcut.errors import UsageError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("m.onnx", Source("m.onnx")),
        ("name=m.onnx", Source("m.onnx", "name")),
        ("name:3=m.onnx", Source("m.onnx", "name", "3")),
        (":3=m.onnx", Source("m.onnx", "", "3")),
        ("embed.py:pipeline", Source("embed.py:pipeline")),
        ("name=embed.py:pipeline", Source("embed.py:pipeline", "name")),
        ("name=/runs/lr=0.1/m.onnx", Source("/runs/lr=0.1/m.onnx", "name")),
        ("name:2=lr=0.1/p.py:e", Source("lr=0.1/p.py:e", "name", "2")),
        ("/runs/lr=0.1/p.py:e", Source("/runs/lr=0.1/p.py:e")),
        ("./lr=0.1/m.onnx", Source("./lr=0.1/m.onnx")),
    ],
)
def test_a_source_names_a_file_and_what_to_call_it(text: str, source: Source) -> None:
    """The name and the version stand before an equals sign; without them, the profile's name and version 1."""
    assert Source.parse(text) == source


def test_what_exists_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole, or behind a name that has a slash of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    for file in ("m.onnx", "lr=0.1/p.py", "lr=0.1/m.onnx"):
        (tmp_path / file).touch()
    assert Source.parse("lr=0.1/m.onnx") == Source("lr=0.1/m.onnx")
    assert Source.parse("lr=0.1/p.py:e") == Source("lr=0.1/p.py:e")
    assert Source.parse("lr=0.2/m.onnx") == Source("0.2/m.onnx", "lr")
    assert Source.parse("a/b=m.onnx") == Source("m.onnx", "a/b")
    assert Source.parse("a/b=lr=0.1/m.onnx") == Source("lr=0.1/m.onnx", "a/b")
    assert Source.parse("a/b=gone.onnx") == Source("a/b=gone.onnx")
    long = "a" * 300  # no file can have this name, and a model can
    assert Source.parse(f"{long}=m.onnx") == Source("m.onnx", long)


@pytest.mark.parametrize("text", ["=m.onnx", "=/runs/m.onnx", "name=", "name:2=", "="])
def test_an_equals_sign_has_a_name_and_a_file(text: str) -> None:
    """Without one of them it is a mistake."""
    with pytest.raises(UsageError, match=f"^'{text}' is neither FILE nor NAME=FILE$"):
        Source.parse(text)


@pytest.mark.parametrize("version", ["", "0", "01", "-1", "1.0", "a", "²", "٣"])
def test_a_version_is_a_positive_whole_number(version: str) -> None:
    """In ASCII digits and without leading zeros."""
    with pytest.raises(UsageError, match="is not a version"):
        Source.parse(f"name:{version}=m.onnx")


@pytest.mark.parametrize("name", [".", "..", "a\nb", "a\tb", "\x7f", "a\x85b", "a\u2028b", "a\udc80b"])
def test_a_name_that_no_url_can_have(tmp_path: Path, name: str) -> None:
    """Is refused where it is written, and where a profile or a file has it; spaces and signs may be in one."""
    with pytest.raises(UsageError, match=r"a model cannot be named .*: give it another name"):
        Source.parse(f"{name}=m.onnx")
    with pytest.raises(UsageError, match="a model cannot be named"):
        Source.parse(f"{name}:2=m.onnx")
    profile = Profile.of_model(perceptron([4, 8, 3], tmp_path / "m.onnx"), name=name.encode(errors="replace").decode())
    profile.save(tmp_path / "m.toml")
    reader = SourceReader(None, None, None, None, accept_model_change=False)
    if "\udc80" not in name:
        with pytest.raises(UsageError, match="a model cannot be named"):
            reader.read(Source(str(tmp_path / "m.toml")))
    assert reader.read(Source(str(tmp_path / "m.toml"), "a b/.. 🙂")).model.name == "a b/.. 🙂"


@pytest.mark.parametrize(
    ("path", "is_bare", "is_pipeline"),
    [("m.onnx", True, False), ("m.profile.toml", False, False), ("embed.py:pipeline", False, True)],
)
def test_the_kind_follows_from_the_file(path: str, is_bare: bool, is_pipeline: bool) -> None:
    """A profile, a bare model, or a pipeline."""
    source = Source.parse(f"name={path}")
    assert (source.is_bare, source.is_pipeline) == (is_bare, is_pipeline)


def test_sources_or_a_repository() -> None:
    """One of both is needed, and only one."""
    need_sources([Source("m.onnx")], None)
    need_sources([], Path("models"))
    for sources, repository in (([], None), ([Source("m.onnx")], Path("models"))):
        with pytest.raises(UsageError, match="give either"):
            need_sources(sources, repository)


def test_names_are_distinct(tmp_path: Path) -> None:
    """Two models of one name need two versions."""
    profile = Profile.of_model(perceptron([4, 8, 3], tmp_path / "m.onnx"))
    first, second = Source("m.onnx"), Source("m.onnx", version="2")
    assert distinct_names([profile, profile], [first, second]) == ["m", "m:2"]
    with pytest.raises(UsageError, match="two models have the same name"):
        distinct_names([profile, profile], [first, first])


def test_the_command_line_replaces_what_the_profile_says(tmp_path: Path) -> None:
    """The name and the largest batch; all else stays."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    Profile.of_model(path).save(tmp_path / "m.toml")
    source = Source(str(tmp_path / "m.toml"), "other")
    stored = Profile.load(tmp_path / "m.toml")
    assert SourceReader(None, None, None, None, accept_model_change=False).read(Source(source.path)) == stored
    read = SourceReader(None, 7, None, None, accept_model_change=False).read(source)
    assert (read.model.name, read.settings.batching.max_batch_size) == ("other", 7)
    assert read.settings.engine == stored.settings.engine
    for alone in (True, False):
        around = SourceReader(None, 7, None, None, accept_model_change=False).steps(measures=True, alone=alone).around
        assert around is not None
        assert (around.alone, around.max_batch_size) == (alone, 7)


def test_devices_by_the_indices_of_a_profile(tmp_path: Path) -> None:
    """The second visible device is the one that the profile calls 3."""
    path = perceptron([4, 8, 3], tmp_path / "m.onnx")
    engine = EngineOptions(device="cuda", cuda=CudaOptions(index=3))
    Profile.of_model(path, Settings(engine=engine)).save(tmp_path / "m.toml")
    reader = SourceReader(None, None, None, None, accept_model_change=False, cuda_devices=(1, 3))
    assert reader.read(Source(str(tmp_path / "m.toml"))).settings.devices == {1}


def test_the_programs_of_a_source(tmp_path: Path) -> None:
    """A model file, the one of a profile, and those of a pipeline, which is no file to load."""
    model = perceptron([4, 8, 3], tmp_path / "m.onnx")
    Profile.of_model(model).save(tmp_path / "m.toml")
    other = perceptron([3, 3], tmp_path / "other.onnx")
    steps = "['m.toml', 'other.onnx']"
    (tmp_path / "p.py").write_text(f"from tailcut import Pipeline\n\npipeline = Pipeline('p', {steps})\n")
    assert programs_of(str(model)) == programs_of(str(tmp_path / "m.toml")) == [model]
    assert programs_of(f"{tmp_path}/p.py:pipeline") == [model, other]
