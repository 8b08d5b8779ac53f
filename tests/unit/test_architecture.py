"""The house keeps its shape: imports point one way, there is no cycle, functions stay small, the surface is pinned."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lorascope

ROOT = Path(lorascope.__file__).parent
ROOMS = {"measures", "weights", "checkpoints", "data", "engines", "training"}
OUTLETS = {"report", "blind", "gates"}
GROUND = {"schema", "errors", "version"}
ALLOWED = {
    "errors": set(),
    "version": set(),
    "schema": {"errors"},
    **dict.fromkeys(ROOMS, GROUND),
    **dict.fromkeys(OUTLETS, GROUND | ROOMS),
    "workflows": GROUND | ROOMS | OUTLETS,
    "cli": GROUND | ROOMS | OUTLETS | {"workflows"},
    "__main__": {"cli"},
    # Edges like the command line: pytest instead of a shell.
    "testing": GROUND | OUTLETS | {"workflows"},
    "pytest_plugin": {"testing"},
}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The package's modules that ``name`` imports anywhere, those for type checking alone included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "lorascope")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            if (node.module or "").split(".")[0] == "lorascope":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in known else str(node.module)


def graph() -> dict[str, set[str]]:
    """Module → modules of the package that it imports."""
    trees = modules()
    return {
        name: {target for target in imports(name, tree, set(trees)) if target != name} for name, tree in trees.items()
    }


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_imports_point_one_way() -> None:
    wrong = []
    for module, targets in graph().items():
        room = room_of(module)
        if room is None:
            continue
        for target in targets:
            into = room_of(target)
            if into is not None and into != room and into not in ALLOWED[room]:
                wrong.append(f"{module} -> {target}")
    assert wrong == []


def test_every_room_has_a_rule() -> None:
    assert {room for room in map(room_of, graph()) if room is not None} == set(ALLOWED)


def test_there_is_no_import_cycle() -> None:
    arrows = graph()
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module in done:
            return
        for target in arrows.get(module, ()):
            visit(target, (*path, module))
        done.add(module)

    for module in arrows:
        visit(module, ())


def test_functions_stay_small() -> None:
    sizes = [
        (node.end_lineno - node.lineno + 1, f"{name}.{node.name}")
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    sizes.sort(reverse=True)
    assert sizes[0][0] <= 80, sizes[:5]
    ninth_decile = sizes[len(sizes) // 10][0]
    assert ninth_decile <= 35, ninth_decile


def test_measures_and_weights_open_no_file_and_no_model() -> None:
    for name, tree in modules().items():
        if room_of(name) not in {"measures", "weights"}:
            continue
        named = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        named |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not named & {"transformers", "peft", "safetensors", "pathlib", "io", "os"}, name
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "open" not in calls, name


def test_public_names_are_these() -> None:
    assert sorted(lorascope.__all__) == [
        "CompareOptions",
        "Comparison",
        "Estimate",
        "Finding",
        "LorascopeError",
        "Measurement",
        "Questions",
        "WeightOptions",
        "__version__",
        "compare",
        "estimate",
        "load_result",
        "paired",
        "render",
    ]
    for name in lorascope.__all__:
        assert getattr(lorascope, name) is not None
    assert set(lorascope.__all__) <= set(dir(lorascope))


def test_importing_the_package_and_the_command_line_imports_no_torch() -> None:
    code = (
        "import sys, lorascope, lorascope.cli.main as m\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'sklearn', 'altair', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
