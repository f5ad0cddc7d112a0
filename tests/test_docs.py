"""The documents are true where a program can tell: links lead somewhere, floors and commands are those of the code."""

import importlib.util
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
ARCHITECTURE = ROOT / "docs/architecture.md"
SOURCE = ROOT / "src/tailcut"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page: Path):
    """Every relative link of a page names a file or folder that is there."""
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_rows_of_tables_are_lines(page: Path):
    """A table that was wrapped like a paragraph is shown as one."""
    assert re.search(r"\| *\|-{3,}", page.read_text(encoding="utf-8")) is None


def test_the_architecture_shows_the_floors_that_are_enforced():
    """The list of floors in docs/architecture.md is import-linter's, top to bottom."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    floors = [
        layer.replace("tailcut.", "")
        for layer in next(contract for contract in contracts if contract["type"] == "layers")["layers"]
    ]
    assert "\n".join(f"    {floor}" for floor in floors) in (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """A section of docs/architecture.md."""
    return ARCHITECTURE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def modules_of(package: str) -> set[str]:
    """The modules of a package, and its packages with a slash."""
    folder = SOURCE / package
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return files | {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}


def test_the_architecture_draws_every_room_of_the_server():
    """The list of rooms has each module of `server` once, and no other."""
    lines = [line for line in section("Inside the server").splitlines() if line.startswith("    ")]
    names = [name for line in lines for name in re.findall(r"[a-z_]+/?", re.split(r" {2,}", line.strip())[0])]
    assert sorted(names) == sorted(modules_of("server"))


def test_the_architecture_names_every_part_of_the_runtime():
    """The table has each module of `runtime` once, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", section("Inside the runtime"), re.MULTILINE)
    names = [name.removesuffix(".py") for row in rows for name in re.findall(r"`([\w/.]+)`", row)]
    assert sorted(names) == sorted(modules_of("runtime"))


def test_the_files_that_the_architecture_names_exist():
    """From `src/tailcut` on, from the repository, or in the package that their section is about."""
    homes = {"Inside the runtime": "runtime", "Inside the server": "server", "The path of a tune": "tuner"}
    page = ARCHITECTURE.read_text(encoding="utf-8")
    wrong = []
    for part in page.split("\n## ")[1:]:
        folders = [SOURCE, ROOT, SOURCE / homes.get(part.split("\n")[0], ""), SOURCE / "runtime", SOURCE / "cli"]
        for name in re.findall(r"`([\w./]+(?:\.py|/))`", part):
            wrong += [] if any((folder / name).exists() for folder in folders) else [name]
        for name in re.findall(r"`((?:\w+/)+\w+)`", part):
            exists = (SOURCE / name).exists() or (SOURCE / f"{name}.py").exists()
            wrong += [] if exists else [name]
    assert wrong == []


@pytest.mark.slow
def test_the_figures_of_the_architecture_are_those_of_the_code():
    """Roughly, so that not every change has to touch the page; and the largest class is among those that it shows."""
    spec = importlib.util.spec_from_file_location("structure", ROOT / "scripts/structure.py")
    assert spec is not None
    assert spec.loader is not None
    structure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(structure)
    result, page = structure.figures(), ARCHITECTURE.read_text(encoding="utf-8")
    near = pytest.approx
    size = re.search(r"`src/` has ([\d,]+) lines in (\d+) modules, of which (\d+) ha(?:s|ve) more than 400 lines", page)
    assert size is not None
    lines, modules, large = (int(number.replace(",", "")) for number in size.groups())
    assert (lines, modules, large) == (
        near(result.lines, 0.05),
        near(result.modules, 0.05),
        near(len(result.large), abs=3),
    )
    row = re.search(r"^\| lines of `src/` \|.*\| ([\d,]+) \|$", page, re.MULTILINE)
    assert row is not None
    assert row[1] == size[1]
    assert result.cycles == []
    for name in ("server", "runtime"):
        package = result.packages[name]
        row = re.search(
            rf"^\| modules of `{name}`, .*\| (\d+), (\d+) \|\n\| levels \|.*\| (\d+), none \|$", page, re.MULTILINE
        )
        assert row is not None, name
        counts = tuple(map(int, row.groups()))
        assert counts == (near(package.modules, 0.05), near(package.imports, 0.05), near(package.levels, abs=1)), name
    rows = re.findall(r"^\| `([\w/]+\.py)` `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    sizes = {(item.file, item.name): item for item in result.classes}
    for file, name, lines, fields, methods in rows:
        item = sizes[file, name]
        assert (int(lines), int(fields), int(methods)) == (
            near(item.lines, 0.1),
            near(item.fields, 0.2),
            near(item.methods, 0.2),
        ), name
    assert (result.classes[0].file, result.classes[0].name) in {(file, name) for file, name, *_ in rows}


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
