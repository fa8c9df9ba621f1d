"""The house: what may import what, what stays quick, and that golden tests cannot be skipped in silence."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = {
    "earwitness": ROOT / "core",
    "earwitness_plugins": ROOT / "plugins",
    "earwitness_bench": ROOT / "benchmarks",
}
HOOK_MODULES = ("earwitness.hooks", "earwitness_plugins.hooks", "earwitness_bench.hooks")


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions, and string arguments of import_module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def imports_of(package: str) -> dict[str, set[str]]:
    """Each file of a package, and the top-level packages that it imports."""
    files = sorted((ROOTS[package] / package).rglob("*.py"))
    assert files
    return {str(path.relative_to(ROOT)): {name.split(".")[0] for name in imported_modules(path)} for path in files}


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("earwitness", {"earwitness_plugins", "earwitness_bench"}),
        ("earwitness_plugins", {"earwitness_bench"}),
        ("earwitness_bench", {"earwitness_plugins"}),
    ],
)
def test_no_part_reaches_back(package: str, forbidden: set[str]) -> None:
    """Core imports nobody; plugins and benchmark meet only at the door."""
    offenders = {path: sorted(names & forbidden) for path, names in imports_of(package).items() if names & forbidden}
    assert offenders == {}


@pytest.mark.parametrize("arguments", [["list"], ["list", "explainers", "--json"], ["--help"], ["--version"]])
def test_listing_and_help_leave_torch_unimported(arguments: list[str]) -> None:
    done = python(
        "import sys\n"
        "from earwitness.cli.shell import shell\n"
        f"shell({arguments!r}, prog_name='earwitness', standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'librosa'} & set(sys.modules)), file=sys.stderr)"
    )
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_the_help_of_every_command_leaves_torch_unimported() -> None:
    done = python(
        "import sys\n"
        "from earwitness.cli.shell import shell\n"
        "from earwitness.registry import registry\n"
        "for offer in registry().offers('commands'):\n"
        "    shell([offer.spec.name, '--help'], prog_name='earwitness', standalone_mode=False)\n"
        "    assert 'torch' not in sys.modules, offer.spec.target\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", HOOK_MODULES)
def test_a_module_of_hooks_imports_no_torch(module: str) -> None:
    done = python(f"import sys, {module}; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_importing_earwitness_imports_no_torch() -> None:
    done = python(
        "import sys, earwitness; print('torch' in sys.modules); earwitness.Clip; print('torch' in sys.modules)"
    )
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_the_code_knows_no_path_outside_the_repository() -> None:
    """Tests find the shared folder through EARWITNESS_GOLDEN; packaged code does not look for it at all."""
    for package, root in ROOTS.items():
        for path in (root / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "../shared" not in text, path
            assert "EARWITNESS_GOLDEN" not in text, path


# --- the promise of conftest.py, on a session of its own

SKIPPING = """
import pytest

@pytest.mark.{marker}
def test_compares(golden):
    {body}
"""


def session(folder: Path, test: str, golden: str | None) -> subprocess.CompletedProcess[str]:
    """Run one test file under a copy of this project's conftest.py."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    (folder / "test_it.py").write_text(test, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  golden: a\n  real_data: b\n", encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name not in ("EARWITNESS_GOLDEN", "PYTEST_ADDOPTS")}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), *sys.path])
    if golden is not None:
        env["EARWITNESS_GOLDEN"] = golden
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-c", folder / "pytest.ini", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder)


@pytest.mark.parametrize("marker", ["golden", "real_data"])
def test_a_skipped_golden_test_fails_the_session_where_its_arrays_are(tmp_path: Path, marker: str) -> None:
    done = session(tmp_path, SKIPPING.format(marker=marker, body="pytest.skip('no time')"), golden=str(tmp_path))
    assert done.returncode == 1
    assert "EARWITNESS_GOLDEN is set, but this test did not run: Skipped: no time" in done.stdout


def test_a_golden_module_that_skips_itself_fails_the_session_too(tmp_path: Path) -> None:
    test = "import pytest\npytest.skip('not here', allow_module_level=True)\n" + SKIPPING.format(
        marker="golden", body="pass"
    )
    done = session(tmp_path, test, golden=str(tmp_path))
    assert done.returncode != 0
    assert "this module did not run" in done.stdout


def test_without_the_variable_a_golden_test_is_skipped_with_its_reason(tmp_path: Path) -> None:
    done = session(tmp_path, SKIPPING.format(marker="golden", body="raise AssertionError"), golden=None)
    assert done.returncode == 0
    assert "EARWITNESS_GOLDEN is not set" in done.stdout


def test_a_golden_test_that_runs_or_fails_as_expected_is_left_alone(tmp_path: Path) -> None:
    test = "import pytest\npytestmark = pytest.mark.golden\ndef test_runs(golden): assert golden.name == 'golden'\n"
    test += "@pytest.mark.xfail\ndef test_known(golden): assert 0\n"
    done = session(tmp_path, test, golden=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 xfailed" in done.stdout
