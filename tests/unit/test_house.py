"""The house keeps its own rules: light where it idles, small rooms, a sentence on every door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "daemon").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "openai")
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", ["daemon.service.lifecycle", "daemon.cli.main"])
def test_what_idles_for_weeks_does_not_import_what_trains(module: str) -> None:
    script = f"import sys, {module}; print(*(heavy for heavy in {HEAVY} if heavy in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=name)
def test_a_package_says_at_most_what_it_is_and_its_version(path: Path) -> None:
    for statement in tree(path).body:
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        version = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__"
        assert docstring or version, f"{name(path)}:{statement.lineno}"


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{name(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_and_every_public_class_says_what_it_is(path: Path) -> None:
    module = tree(path)
    if not module.body:
        return
    assert ast.get_docstring(module), "the module"
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name(path)}:{node.lineno} {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_module_hides_one_of_the_standard_library(path: Path) -> None:
    assert path.stem not in {"signal", "logging", "types", "queue", "select", "token", "code"}
