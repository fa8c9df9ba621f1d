"""Fixtures shared by all tests, and the promise that golden tests run where their arrays are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from acme import AcmeVenv

NEEDS_GOLDEN = ("golden", "real_data")


@pytest.fixture(scope="session")
def shared_root() -> Path:
    """The folder that EARWITNESS_GOLDEN names; the test is skipped where it is not set."""
    root = os.environ.get("EARWITNESS_GOLDEN")
    if not root:
        pytest.skip("EARWITNESS_GOLDEN is not set: there are no reference arrays and no recordings to compare with.")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def golden(shared_root: Path) -> Path:
    """The folder of reference arrays."""
    return shared_root / "golden"


@pytest.fixture(scope="session")
def acme_venv(tmp_path_factory: pytest.TempPathFactory) -> AcmeVenv:
    """An environment in which the foreign distribution of ``tests/acme_plugin`` is installed."""
    return AcmeVenv.build(tmp_path_factory.mktemp("acme"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where EARWITNESS_GOLDEN is set, a golden test that was skipped has failed."""
    report: pytest.TestReport = yield
    must_run = bool(os.environ.get("EARWITNESS_GOLDEN")) and any(item.get_closest_marker(m) for m in NEEDS_GOLDEN)
    if must_run and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"EARWITNESS_GOLDEN is set, but this test did not run: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for a module that skips itself as a whole, before its tests have markers."""
    report: pytest.CollectReport = yield
    if os.environ.get("EARWITNESS_GOLDEN") and report.skipped and isinstance(collector, pytest.Module):
        source = collector.path.read_text(encoding="utf-8")
        if any(f"mark.{marker}" in source for marker in NEEDS_GOLDEN):
            report.outcome = "failed"
            report.longrepr = f"EARWITNESS_GOLDEN is set, but this module did not run: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
