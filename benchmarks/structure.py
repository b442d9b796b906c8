"""Counts how the code is cut: modules, importers, the share of imports, arrows back, circles.

    python -m benchmarks.structure [ROOT]

ROOT is a checkout, this one where not given. What is counted:

- modules: Python files of onnx_soda, cli and converters, `__init__.py` included;
- modules with one importer: those that exactly one other of these modules imports;
- share of imports: lines of import statements and of `__all__`, of all lines that are neither blank
  nor comment;
- arrows back: a room is a top-level module or package. Where two rooms import each other, the
  imports of the rarer direction;
- circles: groups of modules that import each other in a ring, imports inside functions left out.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_PACKAGE = "onnx_soda"
# Folders that are installed inside the package; names of before and after they were marked.
_INSIDE = {"cli": ("_cli", "cli"), "converters": ("_converters", "converters")}


@dataclass(frozen=True)
class Structure:
    """What is counted; see above.

    Attributes:
        modules: Number of modules.
        median_lines: Lines of the middle one.
        one_importer: Modules with one importer.
        import_share: Lines of imports, as a share of all.
        back: Arrows back, each "room -> room: number".
        circles: Modules of each circle.
    """

    modules: int
    median_lines: float
    one_importer: int
    import_share: float
    back: tuple[str, ...]
    circles: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Module:
    name: str
    path: Path
    tree: ast.Module
    text: str


def measure(root: Path) -> Structure:
    """Count how a checkout is cut."""
    modules = {module.name: module for module in _modules(root)}
    imports = {name: _imported(module, modules) for name, module in modules.items()}
    importers = Counter(target for targets, _ in imports.values() for target in targets)
    lines = [_code_lines(module.text) for module in modules.values()]
    of_imports = sum(map(_import_lines, modules.values()))
    return Structure(
        len(modules),
        median(module.text.count("\n") for module in modules.values()),
        sum(count == 1 for count in importers.values()),
        of_imports / sum(lines),
        _arrows_back({name: targets for name, (targets, _) in imports.items()}),
        _circles({name: early for name, (_, early) in imports.items()}),
    )


def arrows(root: Path) -> set[tuple[str, str]]:
    """Return which room imports which, as pairs; what only names the public is left out."""
    modules = {module.name: module for module in _modules(root)}
    imports = {name: _imported(module, modules)[0] for name, module in modules.items()}
    return set(_arrows(imports))


def _modules(root: Path) -> Iterator[_Module]:
    for top in (_PACKAGE, *_INSIDE):
        for path in sorted((root / top).rglob("*.py")):
            parts = list(path.relative_to(root).with_suffix("").parts)
            if parts[0] in _INSIDE:
                parts = [_PACKAGE, _inside_name(root, parts[0]), *parts[1:]]
            if parts[-1] == "__init__":
                parts.pop()
            text = path.read_text(encoding="utf-8")
            yield _Module(".".join(parts), path, ast.parse(text), text)


def _inside_name(root: Path, folder: str) -> str:
    settings = (root / "pyproject.toml").read_text(encoding="utf-8")
    marked, plain = _INSIDE[folder]
    return marked if f'"{_PACKAGE}.{marked}"' in settings else plain


def _imported(module: _Module, modules: dict[str, _Module]) -> tuple[set[str], set[str]]:
    """Return the modules that one imports, and those among them that it imports at once."""
    early = {node for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom)}
    for function in ast.walk(module.tree):
        late = isinstance(function, ast.FunctionDef) or (
            isinstance(function, ast.If) and "TYPE_CHECKING" in ast.unparse(function.test)
        )
        if late:
            early -= set(ast.walk(function))
    found: tuple[set[str], set[str]] = (set(), set())
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = _base(module, node)
        for alias in node.names:
            target = f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base
            if target in modules and target != module.name:
                found[0].add(target)
                if node in early:
                    found[1].add(target)
    return found


def _base(module: _Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _code_lines(text: str) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.split("\n"))


def _import_lines(module: _Module) -> int:
    wanted = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    ]
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in wanted)


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _arrows(imports: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    for module, targets in imports.items():
        for target in targets:
            # The package itself only names what is public.
            if _PACKAGE not in (module, target) and _room(module) != _room(target):
                yield _room(module), _room(target)


def _arrows_back(imports: dict[str, set[str]]) -> tuple[str, ...]:
    found = Counter(_arrows(imports))
    return tuple(
        f"{one} -> {other}: {count}"
        for (one, other), count in sorted(found.items())
        if (found[other, one], (other, one)) > (count, (one, other)) and found[other, one]
    )


def _circles(imports: dict[str, set[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of modules that reach each other (Tarjan 1972, by plain reachability)."""
    reached = {module: _reachable(module, imports) for module in imports}
    groups = {
        tuple(sorted(other for other in targets if module in reached[other]))
        for module, targets in reached.items()
        if module in targets
    }
    return tuple(sorted(groups))


def _reachable(start: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(imports[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports[module]
    return found


def main() -> None:
    """Print the counts."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    found = measure(root)
    print(f"modules              {found.modules}, median {found.median_lines:.0f} lines")
    print(f"with one importer    {found.one_importer}")
    print(f"share of imports     {found.import_share:.1%}")
    print(f"arrows back          {len(found.back)}")
    for arrow in found.back:
        print(f"  {arrow}")
    print(f"circles              {len(found.circles)}")
    for circle in found.circles:
        print(f"  {', '.join(circle)}")


if __name__ == "__main__":
    main()
