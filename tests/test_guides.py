"""The snippets of the guides run as they stand, and print what their comments say."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tailcut import Model
from tailcut.errors import QueueFullError
from tailcut.pipelines.loading import load_pipeline, parse_path
from tailcut.runtime.profile import Profile
from tests.engines.models import perceptron
from tests.servers import serving

GUIDES = Path(__file__).parent.parent / "docs" / "guide"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^print\(.*?\)\s+# (?!None where)(.+)$", re.MULTILINE)


@pytest.mark.parametrize(
    "name",
    [
        "memory",
        "machine",
        "counters",
        "microbenchmarks",
        "batching",
        "client",
        "vectorization",
        pytest.param("kernels", marks=pytest.mark.slow),
    ],
)
def test_snippets(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A page's snippets run one after the other in one program; every `print(...)  # text` prints that text."""
    program = "\n".join(BLOCK.findall((GUIDES / f"{name}.md").read_text(encoding="utf-8")))
    assert program
    exec(compile(program, name, "exec"), {"__name__": name})
    printed = capsys.readouterr().out.splitlines()
    assert [text for text in PROMISE.findall(program) if text not in printed] == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page asks with curl")
def test_the_first_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, its models, its request and its program, as the page has them; only the port differs."""
    page = (GUIDES / "pipelines.md").read_text(encoding="utf-8")
    pipeline, program, texts = BLOCK.findall(page)
    shutil.copy(GUIDES.parent.parent / "examples" / "pipelines" / "make_models.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "make_models.py"], check=True, timeout=60)
    Path("embed.py").write_text(pipeline)
    normalise = load_pipeline(parse_path("embed.py:pipeline")).steps[-1]
    empty = normalise(np.zeros((1, 3, 16), np.float32), np.zeros((1, 3), np.int64))
    assert empty.tolist() == [[0.0] * 16]
    (asked,) = re.findall(r"^    (curl .*\n.*)$", page, re.MULTILINE)
    with serving(tmp_path, "embed.py:pipeline", "--reload") as server:
        command = asked.replace("127.0.0.1:8000", f"{server.host}:{server.port}")
        answer = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60).stdout
    (output,) = json.loads(answer)["outputs"]
    assert (output["name"], output["shape"]) == ("embedding", [2, 16])
    program += "print(vectors.shape, float((vectors**2).sum().round(3)))\n" + texts + "print(len(texts))\n"
    Path("ask.py").write_text(program)
    done = subprocess.run([sys.executable, "ask.py"], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["(2, 16) 2.0", "60"]
    assert Path("texts.npz").exists()


def test_the_first_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipeline is one, its texts come from the example that it names, and all data that a command has is made."""
    page = (GUIDES / "first-hour.md").read_text(encoding="utf-8")
    pipeline, texts = BLOCK.findall(page)
    (tmp_path / "embed.py").write_text(pipeline)
    for name in ("passages.py", "recall.py"):
        shutil.copy(GUIDES.parent.parent / "examples" / "embeddings" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    steps = load_pipeline(parse_path("embed.py:pipeline")).steps
    assert [*steps[1:]] == ["minilm.profile.toml"]
    subprocess.run([sys.executable, "-c", texts], check=True, timeout=60)
    with np.load("texts.npz") as data:
        assert data.files == ["text"]
    made = {"texts.npz", "passages.npz", "samples.npz"}
    assert set(re.findall(r"--data (?:\w+=)?(\S+)", page)) <= made


def test_the_scikit_learn_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training, and its first command; the request has the names that the page says."""
    pytest.importorskip("sklearn")
    page = (GUIDES / "scikit-learn.md").read_text(encoding="utf-8")
    (train,) = BLOCK.findall(page)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", train], check=True, timeout=120)
    (convert,) = re.findall(r"^    tailcut (convert .*)$", page, re.MULTILINE)
    subprocess.run([sys.executable, "-m", "tailcut", *convert.split()], check=True, timeout=120)
    with Model.open("forest.onnx", auto=False) as model, np.load("samples.npz") as data:
        assert model.spec.output_names == ("label", "probabilities")
        assert model.infer_sync({name: data[name] for name in data.files})["label"][0] == b"setosa"


def test_the_scikit_learn_model_with_columns_of_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page converts it, which `tailcut convert` does not."""
    encoder = pytest.importorskip("sklearn.preprocessing").OneHotEncoder()
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    pytest.importorskip("skl2onnx")
    table = np.array([["red", "small"], ["green", "large"]] * 4, object)
    steps = pytest.importorskip("sklearn.pipeline").make_pipeline(encoder, linear).fit(table, ["cherry", "melon"] * 4)
    page = (GUIDES / "scikit-learn.md").read_text(encoding="utf-8")
    (convert,) = re.findall(r"^  ```python\n(.*?)^  ```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(convert), {"steps": steps, "table": table})
    with Model.open("churn.onnx", auto=False) as model:
        answer = model.infer_sync({"X": table[:2]})
        assert answer["label"].tolist() == [b"cherry", b"melon"]
        assert np.allclose(answer["probabilities"], steps.predict_proba(table[:2]), atol=1e-6)


def test_the_fastapi_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls in its own event loop: an answer, and a full queue with the time after which to ask again."""
    pytest.importorskip("fastapi")
    from fastapi import HTTPException

    perceptron([4, 8, 3], tmp_path / "m.onnx")
    Profile.of_model(tmp_path / "m.onnx").save(tmp_path / "model.profile.toml")
    (program,) = BLOCK.findall((GUIDES / "fastapi.md").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "app"}
    exec(compile(program, "app", "exec"), namespace)
    app, classify = namespace["app"], namespace["classify"]

    async def infer(*_: object, **__: object) -> None:
        raise QueueFullError("full", retry_after_s=0.0123)

    async def run() -> None:
        async with app.router.lifespan_context(app):
            assert len((await classify([[0, 0, 1, 0], [1, 0, 0, 0]]))["class"]) == 2
            for wrong in ([[0, 0]], [[0, 0, 1, 0], [0]], []):
                with pytest.raises(HTTPException) as caught:
                    await classify(wrong)
                assert caught.value.status_code == 400
            app.state.model.infer = infer
            with pytest.raises(HTTPException) as caught:
                await classify([[0, 0, 1, 0]])
            assert caught.value.status_code == 503
            assert caught.value.headers == {"Retry-After": "0", "Retry-After-Ms": "13"}

    asyncio.run(run())
