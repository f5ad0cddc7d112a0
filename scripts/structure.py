"""Prints the figures of the code's structure that docs/architecture.md shows.

    python scripts/structure.py

Lines and modules; the files over 400 lines; the largest classes with their fields and methods; and of each
package the modules, the imports among them, and the levels: the longest chain of imports, cycles taken as one. At last,
all modules that import each other, inside functions or not.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src"
LARGE = 400


class Package(NamedTuple):
    """The modules of a package, and the imports among them."""

    modules: int
    imports: int
    levels: int
    cycles: int


class Class(NamedTuple):
    """One class, by its file below src/tailcut, and its sizes."""

    lines: int
    fields: int
    methods: int
    file: str
    name: str


class Figures(NamedTuple):
    """All that docs/architecture.md shows."""

    lines: int
    modules: int
    large: dict[str, int]  # lines of the modules over LARGE
    classes: list[Class]  # the largest first
    packages: dict[str, Package]
    cycles: list[list[str]]  # of all modules


def figures() -> Figures:
    """Count them."""
    files = {_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    everything = {name: _imports(name, tree, trees) for name, tree in trees.items()}
    packages = {}
    for package in sorted({name.split(".")[1] for name in trees if name.count(".") > 1}):
        graph = {name: result for name, result in everything.items() if name.startswith(f"tailcut.{package}.")}
        graph = {name: result & graph.keys() for name, result in graph.items()}
        packages[package] = Package(len(graph), sum(map(len, graph.values())), *_levels(graph))
    large = sorted((name for name, size in sizes.items() if size > LARGE), key=lambda name: -sizes[name])
    classes = sorted(_classes(trees), reverse=True)
    cycles = [group for group in _groups(everything) if len(group) > 1]
    return Figures(sum(sizes.values()), len(files), {name: sizes[name] for name in large}, classes, packages, cycles)


def main() -> None:
    """All figures, as text."""
    result = figures()
    print(f"{result.lines:,} lines in {result.modules} modules, {len(result.large)} of more than {LARGE} lines:")
    for name, size in result.large.items():
        print(f"  {size} {name}")
    print("the largest classes: lines, fields, methods")
    for item in result.classes[:5]:
        print(f"  {item.lines} {item.fields} {item.methods} {item.file} {item.name}")
    for name, package in result.packages.items():
        levels = f"{package.levels} levels, {package.cycles} cycles"
        print(f"tailcut.{name}: {package.modules} modules, {package.imports} imports, {levels}")
    print("cycles:", "; ".join(" <-> ".join(group) for group in result.cycles) or "none")


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _classes(trees: dict[str, ast.Module]) -> Iterator[Class]:
    for name, tree in trees.items():
        for node in (item for item in tree.body if isinstance(item, ast.ClassDef)):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and _is_name(item.target)}
            for method in methods:
                if method.name == "__init__":
                    fields |= set(_assigned(method))
            file = f"{name.removeprefix('tailcut.').replace('.', '/')}.py"
            yield Class((node.end_lineno or 0) - node.lineno + 1, len(fields), len(methods), file, node.name)


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)


def _assigned(function: ast.AST) -> Iterator[str]:
    """The attributes of `self` that a function stores."""
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_name(node.value):
            yield node.attr


def _imports(name: str, tree: ast.Module, modules: dict[str, ast.Module]) -> set[str]:
    """The modules of ours that a module imports when it is loaded or later, except for annotations only."""
    result: set[str] = set()
    guarded = {id(inner) for node in tree.body if _is_for_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
            result |= inner or {node.module}
    return result & modules.keys() - {name}


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _levels(graph: dict[str, set[str]]) -> tuple[int, int]:
    """The longest chain of imports, and how many groups of modules import each other."""
    groups = _groups(graph)
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    depth: list[int] = []
    for group in groups:  # each after all that it imports
        below = {group_of[other] for name in group for other in graph[name]} - {group_of[group[0]]}
        depth.append(1 + max((depth[number] for number in below), default=0))
    return max(depth, default=0), sum(len(group) > 1 for group in groups)


def _groups(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components in the order of their dependencies (R. Tarjan, SIAM J. Comput. 1(2), 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        path.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in path:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = path.index(name)
            groups.append(path[at:])
            del path[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return groups


if __name__ == "__main__":
    main()
