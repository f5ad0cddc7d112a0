"""Programs that would run code of their own when PyTorch loads them are refused, and their code never runs."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engines.pytorch import programs

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.torch.archive import EXAMPLES, PROGRAM, check_archive
from tailcut.engines.trust import trust
from tailcut.errors import ModelFileError, UnsupportedError

OPTIONS = EngineOptions(name="torch", threads=1)
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return programs.example(tmp_path_factory.mktemp("archive"))


def contents(path: Path) -> dict[str, bytes]:
    """The archive's files, without the folder that they are in."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{path.stem}/{name}", data)
    return path


def edited(files: dict[str, bytes], name: str, change: Callable[[Any], object]) -> None:
    value = json.loads(files[name])
    change(value)
    files[name] = json.dumps(value).encode()


class Mark:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def first_node(program: Any) -> dict[str, Any]:
    return program["graph_module"]["graph"]["nodes"][0]


def size_of(program: Any) -> dict[str, Any]:
    return program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]


def tree_of(program: Any) -> dict[str, Any]:
    return program["graph_module"]["module_call_graph"][0]["signature"]


CALL = "__import__('pathlib').Path('MARK').touch()"
HOSTILE: list[tuple[str, str, Callable[[Any], object], str]] = [
    ("weights", WEIGHTS, lambda c: next(iter(c["config"].values())).update(use_pickle=True), "as a pickle"),
    (
        "object",
        CONSTANTS,
        lambda c: c["config"].update(o={"path_name": "opaque_obj_0", "use_pickle": False}),
        "constant 'o', which is not a tensor",
    ),
    ("size", PROGRAM, lambda p: size_of(p).update(expr_str=CALL), "the size"),
    ("attribute", PROGRAM, lambda p: size_of(p).update(expr_str="Symbol('s77').__class__"), "the size"),
    ("target", PROGRAM, lambda p: first_node(p).update(target="torch.os.system"), "the operator torch.os.system"),
    ("load", PROGRAM, lambda p: first_node(p).update(target="torch.ops.load_library"), "the operator"),
    ("file", PROGRAM, lambda p: first_node(p).update(target="torch.ops.aten.from_file.default"), "the operator"),
    (
        "tree",
        PROGRAM,
        lambda p: tree_of(p).update(
            out_spec='[1, {"type": "collections.defaultdict", "context": {}, "children_spec": []}]'
        ),
        "inputs or outputs of type collections.defaultdict",
    ),
    (
        "enum",
        PROGRAM,
        lambda p: tree_of(p).update(
            out_spec='[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true, \\"fqn\\": \\"os:x\\"}]"}]'
        ),
        "keys that are not plain values",
    ),
]


@pytest.mark.parametrize(("name", "file", "change", "reason"), HOSTILE, ids=[item[0] for item in HOSTILE])
def test_hostile_content_is_refused(  # noqa: PLR0917  a case is its parameters
    program: Path, tmp_path: Path, name: str, file: str, change: Callable[[Any], object], reason: str
) -> None:
    """In one line that names the file and what it contains, whatever PyTorch would have made of it."""
    files = contents(program)
    edited(files, file, change)
    path = written(tmp_path / "evil.pt2", files)
    with pytest.raises(UnsupportedError, match=reason) as caught:
        open_engine(path, OPTIONS)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_example_inputs_run_no_code(program: Path, tmp_path: Path) -> None:
    """PyTorch falls back to unpickling anything; the check comes before it, and only the user's trust lifts it."""
    files = contents(program)
    buffer = io.BytesIO()
    programs.torch.save(((Mark(tmp_path / "ran"),), {}), buffer, pickle_module=pickle)
    files[EXAMPLES] = buffer.getvalue()
    path = written(tmp_path / "evil.pt2", files)
    with pytest.raises(UnsupportedError, match="example inputs"):
        open_engine(path, OPTIONS)
    assert not (tmp_path / "ran").exists()


def test_a_trusted_file_is_loaded_whatever_it_contains(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of trusted files is the environment's, so that child processes have it; others stay refused."""
    monkeypatch.setenv("TAILCUT_TRUSTED_FILES", "")
    files = contents(program) | {"data/notes/note": b"x"}
    path, other = written(tmp_path / "noted.pt2", files), written(tmp_path / "other.pt2", files)
    with pytest.raises(UnsupportedError, match="the file 'data/notes/note'"):
        open_engine(path, OPTIONS)
    trust(path)
    open_engine(path, OPTIONS).close()
    with pytest.raises(UnsupportedError):
        open_engine(other, OPTIONS)


def test_compiled_code_is_refused(program: Path, tmp_path: Path) -> None:
    """A library in a program's archive would be loaded by PyTorch at once."""
    path = written(tmp_path / "m.pt2", contents(program) | {"data/aotinductor/model/a.so": b"\x7fELF"})
    with pytest.raises(UnsupportedError, match="compiled code"):
        open_engine(path, OPTIONS)


def test_names_alone_make_no_program() -> None:
    """What lacks a part of a program is no program; neither is what is nested without end."""
    with pytest.raises(ValueError, match=r"no program that torch\.export\.save wrote"):
        check_archive([PROGRAM], lambda _: b"{}")
    deep = b"[" * 500 + b"]" * 500
    files = {PROGRAM: deep, EXAMPLES: b"", WEIGHTS: b'{"config": {}}', CONSTANTS: b'{"config": {}}'}
    with pytest.raises(ValueError, match="nested too deep"):
        check_archive(list(files), files.__getitem__)


@pytest.mark.parametrize("size", [0, 100, 3000, -300])
def test_files_cut_short_and_flipped_bits_are_one_line(program: Path, tmp_path: Path, size: int) -> None:
    """Whatever is broken, the message names the file, and nothing crashes."""
    path = tmp_path / "cut.pt2"
    path.write_bytes(program.read_bytes()[:size])
    with pytest.raises(ModelFileError) as caught:
        open_engine(path, OPTIONS)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def on_device(files: dict[str, bytes], device: str) -> dict[str, bytes]:
    as_json = (b'"type": "cpu"', f'"type": "{device}"'.encode())
    return {name: data.replace(*as_json) if name.endswith(".json") else data for name, data in files.items()}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda files: on_device(files, "mps"), r"mps devices: export it on the CPU\Z"),
        (lambda files: files | {PROGRAM: files[PROGRAM].replace(b'"major": ', b'"major": 9')}, "schema version"),
        (lambda files: files | {"data/weights/weight_0": files["data/weights/weight_0"][:8]}, "of size 8"),
    ],
    ids=["device", "version", "weight"],
)
def test_what_pytorch_cannot_load_is_reported(
    program: Path, tmp_path: Path, damage: Callable[..., Any], why: str
) -> None:
    """In place of warnings to look up, which are not shown."""
    path = written(tmp_path / "m.pt2", damage(contents(program)))
    with pytest.raises(ModelFileError, match=why) as caught:
        open_engine(path, OPTIONS)
    assert "warnings" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_program_that_is_cut_short_is_called_so(program: Path, tmp_path: Path) -> None:
    """As after a download that broke off."""
    whole = program.read_bytes()
    (tmp_path / "m.pt2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="an archive that is cut short or damaged"):
        open_engine(tmp_path / "m.pt2", OPTIONS)
