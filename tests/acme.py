"""The foreign distribution ``tests/acme_plugin``, really installed into a venv layered on the project's own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Completed = subprocess.CompletedProcess[str]
SOURCE = Path(__file__).parent / "acme_plugin"


@dataclass(frozen=True)
class AcmeVenv:
    """A virtual environment that sees the project's environment and, on top of it, ``acme-earwitness`` 1.2.3.

    Attributes
    ----------
    python : Path
        Its interpreter.
    """

    python: Path

    @classmethod
    def build(cls, folder: Path) -> AcmeVenv:
        """Make the environment in an empty folder and install the plugin into it, without its dependencies."""
        root = folder / "venv"
        _checked([sys.executable, "-m", "venv", "--without-pip", root])
        python = root / "bin" / "python"
        site_packages = Path(_checked([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        own = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        # addsitedir, unlike a bare path, also reads the .pth files there: that of the editable installation is one.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in own]
        (site_packages / "layered.pth").write_text("".join(lines), encoding="utf-8")
        sources = shutil.copytree(SOURCE, folder / "acme_plugin", ignore=shutil.ignore_patterns("__pycache__"))
        isolation = ["--no-build-isolation"] if _can_build_wheels() else []
        _checked([python, "-m", "pip", "install", "--quiet", "--no-deps", *isolation, sources])
        script = python.with_name("earwitness")
        script.write_text(_console_script(python), encoding="utf-8")
        script.chmod(0o755)
        return cls(python)

    def run(self, *command: str | Path, env: Mapping[str, str] | None = None) -> Completed:
        """Run a command with text output; its exit code is the caller's to check."""
        environment = _clean_environment() | dict(env or {})
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def earwitness(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Completed:
        """Run the environment's console script ``earwitness``."""
        return self.run(self.python.with_name("earwitness"), *arguments, env=env)

    def json(self, *arguments: str | Path) -> Any:
        """What a command prints with ``--json``; it must succeed."""
        done = self.earwitness(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def _console_script(python: Path) -> str:
    """What an installer writes for the console script of the project's distribution."""
    (script,) = importlib.metadata.distribution("earwitness").entry_points.select(group="console_scripts")
    return f"#!{python}\nimport sys\nfrom {script.module} import {script.attr}\nsys.exit({script.attr}())\n"


def _can_build_wheels() -> bool:
    """Whether the installed setuptools is what the plugin's pyproject.toml asks for: then nothing is fetched."""
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def _clean_environment() -> dict[str, str]:
    hidden = {"PYTHONPATH", "PYTHONHOME", "EARWITNESS_PLUGINS", "EARWITNESS_TRACEBACK"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _checked(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_clean_environment())
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout
