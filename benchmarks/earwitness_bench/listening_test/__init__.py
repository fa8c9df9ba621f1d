"""Listening tests after MUSHRA (ITU-R BS.1534), as L2I and L-MAC ran them: people rate what explainers keep.

A test is a folder of static pages that knows methods by letters only; its key stays in the results folder. Answers
come back as files, and become a metric like any other.
"""

from __future__ import annotations

from earwitness_bench.listening_test.answers import Imported, import_answers, outcome_of
from earwitness_bench.listening_test.writing import Written, write_test

__all__ = ["Imported", "Written", "import_answers", "outcome_of", "write_test"]
