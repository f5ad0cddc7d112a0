"""The documents are true where a program can tell: links lead somewhere, floors and commands are those of the code."""

import re
import tomllib
from pathlib import Path

import pytest

from tailcut import Model
from tailcut.cli.main import COMMANDS
from tailcut.models import digits_model

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PIPELINE = """
from tailcut import Pipeline, stage

@stage(inputs={"x": "FP32[2]"}, outputs={"y": "FP32[2]"}, threads=True)
def same(x):
    return x

steps = Pipeline("steps", [same])
"""
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page: Path):
    """Every relative link of a page names a file or folder that is there."""
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_architecture_shows_the_floors_that_are_enforced():
    """The list of floors in docs/architecture.md is import-linter's, top to bottom."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    floors = [
        layer.replace("tailcut.", "") for layer in next(one for one in contracts if one["type"] == "layers")["layers"]
    ]
    assert "\n".join(f"    {floor}" for floor in floors) in (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_every_decision_is_in_the_index():
    """docs/decisions/README.md has a line with the title of each, and names the numbers that are not in use."""
    index = (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    numbers = [int(page.name[:3]) for page in pages]
    listed, unused = index.split("## Numbers that are not in use")
    for page in pages:
        number, title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(": ", 1)
        assert f"- [{number}]({page.name}) {title}\n" in listed
    missing = {number for number in range(1, max(numbers)) if number not in numbers}
    assert set(map(int, re.findall(r"\b\d{3}\b", unused.replace("(010-", "").replace("[010]", "")))) == missing


def test_every_command_is_in_the_reference():
    """docs/reference/cli.md names every command."""
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`tailcut {name} " not in page and f"`tailcut {name}`" not in page] == []


def test_the_public_names_of_a_model_are_those_of_the_reference(tmp_path: Path):
    """docs/reference/model.md has a row for each of them, and Model and PipelineModel have no others but `entry`."""
    page = (ROOT / "docs/reference/model.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(?:await )?(\w+)(?:\(.*?\))?` \|", page.split("## Methods")[1], re.MULTILINE))
    assert {"infer", "infer_sync", "statistics", "spec"} <= rows
    (tmp_path / "steps.py").write_text(PIPELINE)
    for source in (digits_model(), f"{tmp_path / 'steps.py'}:steps"):
        with Model.open(source, auto=False) as model:
            names = {name for name in dir(model) if not name.startswith("_")}
        assert names == rows | {"open", "entry"}, type(model).__name__


def test_anchors_inside_the_repository_exist():
    """A link to a section of a page names one of its headings."""
    wrong = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            other = (page.parent / target) if target else page
            heads = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in {_anchor(head) for head in heads}:
                wrong.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert wrong == []


def _anchor(heading: str) -> str:
    """The id that a heading has on a page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
