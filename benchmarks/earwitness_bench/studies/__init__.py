"""Experiments that are no metric: they fit, damage or exchange something before they score, and end in a figure.

A study is a list of cells (:mod:`earwitness_bench.studies.cells`): pieces of work with an identity, each kept as soon
as it is done. It has a module here, and a command of the same name in :mod:`earwitness_bench.commands.study`. What one
explainer is asked is in :mod:`earwitness_bench.studies.material`; how all explainers of a suite are put to work, in
:mod:`earwitness_bench.studies.methods`.
"""
