"""Statistics over recordings, on arrays: no store, no model and no explainer in sight.

The unit is the *group*: the recording from which clips were cut. Clips of one recording are not independent, so
bootstraps draw groups with all their clips, and tests see one value for each group. ``docs/statistics.md`` says what
each number means and where it comes from.
"""

from __future__ import annotations

from earwitness_bench.statistics.agreement import map_agreement, rank_agreement, standard_ranks
from earwitness_bench.statistics.effects import cohen_d, rank_biserial
from earwitness_bench.statistics.groups import group_means
from earwitness_bench.statistics.intervals import Bootstrap, bootstrap, group_bootstrap
from earwitness_bench.statistics.paired import Comparison, Pair, compare, compare_many, gain, holm, wilcoxon
from earwitness_bench.statistics.ranks import Friedman, cliques, critical_difference, friedman, mean_ranks

__all__ = [
    "Bootstrap",
    "Comparison",
    "Friedman",
    "Pair",
    "bootstrap",
    "cliques",
    "cohen_d",
    "compare",
    "compare_many",
    "critical_difference",
    "friedman",
    "gain",
    "group_bootstrap",
    "group_means",
    "holm",
    "map_agreement",
    "mean_ranks",
    "rank_agreement",
    "rank_biserial",
    "standard_ranks",
    "wilcoxon",
]
