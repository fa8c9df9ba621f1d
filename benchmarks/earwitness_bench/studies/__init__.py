"""Experiments that are no metric: they fit, damage or exchange something before they score, and end in a figure.

A study is a list of cells (:mod:`earwitness_bench.studies.cells`): pieces of work with an identity, each kept as soon
as it is done. It has a module here, and a command in :mod:`earwitness_bench.commands.study`.
"""
