"""The time limit: it interrupts Python, is not swallowed, leaves imports alone, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from earwitness_bench.limits import TimeLimitExceeded, time_limit


def test_python_code_is_interrupted_where_it_stands() -> None:
    started = time.monotonic()
    with pytest.raises(TimeLimitExceeded, match=r"more than 0\.1 s"), time_limit(0.1):
        time.sleep(5)
    assert time.monotonic() - started < 2


def goes_on_regardless() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def test_code_that_catches_every_exception_is_interrupted_too() -> None:
    with pytest.raises(TimeLimitExceeded), time_limit(0.05):
        goes_on_regardless()


def test_what_is_quick_is_not_interrupted_and_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    for limit in (0.2, None):
        with time_limit(limit):
            pass
    time.sleep(0.3)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_import_is_not_interrupted_and_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.3)\nDONE = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with time_limit(0.2):
        import slow_to_import  # type: ignore[import-not-found]
    assert slow_to_import.DONE
    with pytest.raises(TimeLimitExceeded), time_limit(0.2):
        time.sleep(5)


def test_outside_the_main_thread_there_is_no_limit_but_the_process() -> None:
    done = []

    def work() -> None:
        with time_limit(0.05):
            time.sleep(0.15)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_compiled_code_that_does_not_return_ends_its_process() -> None:
    code = (
        "from earwitness_bench.limits import time_limit\nwith time_limit(0.3, may_exit=True):\n    sum(range(10**15))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Timeout (0:00:00.6" in done.stderr
