"""The snippets of the guides run as they stand, and print what their comments say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import serving

GUIDES = Path(__file__).parent.parent / "docs" / "guide"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^print\(.*?\)\s+# (?!None where)(.+)$", re.MULTILINE)


@pytest.mark.parametrize(
    "name", ["memory", "machine", "counters", "microbenchmarks", "batching", "client", "kernels", "vectorization"]
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
