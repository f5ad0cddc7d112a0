"""Prints the figures of the code's structure that docs/architecture.md shows.

    python scripts/structure.py

Lines and modules; the files over 400 lines; the largest classes with their fields and methods; and of `server` and
`runtime` the modules, the imports among them, and the levels: the longest chain of imports, cycles taken as one.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
LARGE = 400


def main() -> None:
    """All figures, as text."""
    files = {_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    large = sorted((name for name, size in sizes.items() if size > LARGE), key=lambda name: -sizes[name])
    print(f"{sum(sizes.values()):,} lines in {len(files)} modules, {len(large)} of more than {LARGE} lines:")
    for name in large:
        print(f"  {sizes[name]} {name}")
    print("the largest classes: lines, fields, methods")
    for lines, fields, methods, name in sorted(_classes(trees), reverse=True)[:5]:
        print(f"  {lines} {fields} {methods} {name}")
    for package in ("tailcut.server", "tailcut.runtime"):
        graph = {name: _imports(name, trees[name], trees) for name in trees if name.startswith(f"{package}.")}
        graph = {name: {one for one in found if one in graph} for name, found in graph.items()}
        levels, cycles = _levels(graph)
        count = sum(map(len, graph.values()))
        print(f"{package}: {len(graph)} modules, {count} imports, {levels} levels, {cycles} cycles")


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _classes(trees: dict[str, ast.Module]) -> Iterator[tuple[int, int, int, str]]:
    for name, tree in trees.items():
        for node in (one for one in tree.body if isinstance(one, ast.ClassDef)):
            methods = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and _is_name(one.target)}
            for method in methods:
                if method.name == "__init__":
                    fields |= set(_assigned(method))
            yield (node.end_lineno or 0) - node.lineno + 1, len(fields), len(methods), f"{name}.{node.name}"


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)


def _assigned(function: ast.AST) -> Iterator[str]:
    """The attributes of `self` that a function stores."""
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_name(node.value):
            yield node.attr


def _imports(name: str, tree: ast.Module, modules: dict[str, ast.Module]) -> set[str]:
    """The modules of ours that a module imports when it is loaded or later, except for annotations only."""
    found: set[str] = set()
    guarded = {id(inner) for node in ast.walk(tree) if _is_for_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
            found |= inner or {node.module}
    return found & modules.keys() - {name}


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
