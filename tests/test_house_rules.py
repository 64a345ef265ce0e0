"""Imports run down only: the engines know neither one another nor the face, and load only what they need."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINES = ("connector", "ranking", "extractor")
SHARED = "extractor.features"

LOADED = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""


def modules(package):
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }


def imported(name, path):
    """Absolute names of everything that a module imports, at the top or within a function."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return found


def within(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(
    ("package", "heavy"), [("ranking", ("torch", "pymilvus")), ("connector", ("torch",))]
)
def test_a_fresh_interpreter_loads_no_more_than_the_package_needs(package, heavy):
    process = subprocess.run(
        [sys.executable, "-c", LOADED, package], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    names, loaded = json.loads(process.stdout)
    assert {*names, package} == modules(package).keys()
    assert {*names, package} <= set(loaded)
    unwanted = {*ENGINES, "landbridge", *heavy} - {package, "extractor"}
    assert [name for name in loaded if name.partition(".")[0] in unwanted] == []
    assert [name for name in loaded if within(name, "extractor")] in ([], ["extractor", SHARED])


@pytest.mark.parametrize("package", ENGINES)
def test_engines_share_the_currency_alone(package):
    others = {*ENGINES, "landbridge"} - {package}
    broken = []
    for name, path in modules(package).items():
        for target in imported(name, path):
            allowed = within(target, package) or within(target, SHARED)
            if target.partition(".")[0] in others and not allowed:
                broken.append(f"{name} imports {target}")
    assert broken == []


def test_the_currency_imports_numpy_alone():
    found = {target.partition(".")[0] for target in imported(SHARED, modules("extractor")[SHARED])}
    assert "numpy" in found
    assert found - sys.stdlib_module_names == {"numpy"}
