"""Which package may import which, and no circles. Imports within functions and for type checking count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = ("compilers", "router", "integrations")  # packages of memkit with a folder of their own
TOOLS = ("evals", "bench", "cli")  # measure and drive the product

# importer: what it must not import
FORBIDDEN = {
    "evals": ("bench", "cli"),
    "bench": ("cli",),
    "server": TOOLS,
    "compilers": ("router", *TOOLS),
    "pipeline": ("memory", *TOOLS),
}
# Only these parts of memkit.compilers are contracts; a concrete compiler is found through the registry.
CONTRACTS = ("compilers.base", "compilers.distillation.flops")


def _modules() -> dict[str, Path]:
    """Modules by their name without the leading ``memkit.``."""
    found = dict[str, Path]()
    for top in ("memkit", *OUTSIDE):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT / "memkit" if top == "memkit" else ROOT).with_suffix("").parts
            if top == "memkit" and parts[0] in OUTSIDE:  # the links in memkit/
                continue
            found[".".join(parts).removesuffix(".__init__").replace("__init__", "")] = path
    return found


def _imported(path: Path) -> Iterator[str]:
    """Names of memkit that a module imports, without the leading ``memkit.``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("memkit.") for name in names if name.startswith("memkit."))


def _graph() -> dict[str, set[str]]:
    modules = _modules()
    graph = dict[str, set[str]]()
    for module, path in modules.items():
        names = (n if n in modules else n.rpartition(".")[0] for n in _imported(path))
        graph[module] = {name for name in names if name in modules and name != module}
    return graph


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Importer to imported."""
    return _graph()


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_graph_sees_imports(imports: dict[str, set[str]]) -> None:
    assert "errors" in imports["document"]
    assert "bank.repair" in imports["bank.bank"]  # imported within a function
    assert "router.router" in imports["memory"]
    assert sum(map(len, imports.values())) > 1000


def test_the_product_imports_none_of_its_tools(imports: dict[str, set[str]]) -> None:
    product = [m for m in imports if not any(_within(m, tool) for tool in (*TOOLS, "__main__"))]
    assert not [(m, i) for m in product for i in imports[m] if any(_within(i, tool) for tool in TOOLS)]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_keep_apart(imports: dict[str, set[str]], package: str) -> None:
    importers = [module for module in imports if _within(module, package)]
    assert importers
    wrong = [(m, i) for m in importers for i in imports[m] for f in FORBIDDEN[package] if _within(i, f)]
    assert not wrong


def test_no_concrete_compiler_is_imported(imports: dict[str, set[str]]) -> None:
    allowed = ("compilers", "testing", *TOOLS)
    importers = [m for m in imports if not any(_within(m, package) for package in allowed)]
    wrong = [
        (m, i)
        for m in importers
        for i in imports[m]
        if _within(i, "compilers") and not any(_within(i, contract) for contract in CONTRACTS)
    ]
    assert not wrong


def test_no_import_circles(imports: dict[str, set[str]]) -> None:
    left = {module: set(imported) for module, imported in imports.items()}
    while leaves := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in leaves:
            del left[module]
    on_circles = {module: sorted(imported & left.keys()) for module, imported in left.items()}
    assert not on_circles  # or leads to one
