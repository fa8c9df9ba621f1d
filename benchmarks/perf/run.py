"""All performance claims, each measured side by side with its peer: ``make perf``.

    python benchmarks/perf/run.py [NAME …]

Each script of this folder runs in a process of its own; NAME picks some. The exit status is 1 if a bound was missed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HELPERS = {"run", "side_by_side"}


def main() -> int:
    """Run the scripts and say which missed a bound."""
    scripts = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem not in HELPERS}
    chosen = sys.argv[1:] or list(scripts)
    unknown = [name for name in chosen if name not in scripts]
    if unknown:
        print(f"There is no {', '.join(unknown)} here; choose from {', '.join(scripts)}.", file=sys.stderr)
        return 2
    missed = []
    for name in chosen:
        print(f"--- {name}", flush=True)
        if subprocess.run([sys.executable, str(scripts[name])], check=False).returncode:
            missed.append(name)
    print(f"missed: {', '.join(missed)}" if missed else "all bounds kept")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
