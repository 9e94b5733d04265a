"""The house keeps its own rules: light where it idles, small rooms, a sentence on every door."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "daemon").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "openai")
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
Function = ast.FunctionDef | ast.AsyncFunctionDef
OURS = {"daemon", "scripts", "tests"}
ENGINE = {"torch", "transformers", "peft", "safetensors", "huggingface-hub", "jinja2"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEVELOPMENT = PROJECT["optional-dependencies"]["dev"]


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


def test_every_error_of_the_tree_grows_where_it_is_drawn() -> None:
    errors = ROOT / "daemon" / "errors.py"
    known = {node.name for node in ast.walk(tree(errors)) if isinstance(node, ast.ClassDef)}
    drawn = re.findall(r"^# [│├└─ ]*(\w+) *\d*$", errors.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(drawn) == sorted(known)
    for path in set(SOURCES) - {errors}:
        for node in (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)):
            assert known.isdisjoint(map(ast.unparse, node.bases)), f"{name(path)}:{node.lineno} {node.name}"


def canonical(package: str) -> str:
    """A requirement's or a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", package)[0]).lower()


def imported(paths: Iterable[Path]) -> set[str]:
    """The distributions that some sources import directly."""
    roots = {module.partition(".")[0] for module in modules(paths)} - sys.stdlib_module_names
    provided = packages_distributions()
    return {canonical(distribution) for root in roots - OURS for distribution in provided[root]}


def modules(paths: Iterable[Path]) -> set[str]:
    """The modules that some sources import, by their whole names."""
    found: set[str] = set()
    for node in (node for path in paths for node in ast.walk(tree(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_what_is_imported_is_declared() -> None:
    declared = {canonical(requirement) for requirement in PROJECT["dependencies"]}
    assert imported(SOURCES) - declared == set()
    development = {canonical(requirement) for requirement in DEVELOPMENT}
    assert imported([*SCRIPTS, *(ROOT / "tests").rglob("*.py")]) - declared - development == set()


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Why each dependency is there")[2].partition("\n## ")[0]
    given = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[1:]
    named = [canonical(name) for cell in given for name in re.sub(r"^\w+: ", "", cell).split(", ")]
    asked = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    assert sorted(named) == sorted(canonical(requirement) for requirement in asked)


def test_the_engine_imports_what_a_bare_gpu_machine_has() -> None:
    engine = sorted((ROOT / "daemon" / "training" / "engine").rglob("*.py"))
    assert imported(engine) == ENGINE
    ours = {module for module in modules(engine) if module.partition(".")[0] in OURS}
    assert not {module for module in ours if not f"{module}.".startswith("daemon.training.engine.")}
