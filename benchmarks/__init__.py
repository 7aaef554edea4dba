"""Speed of the core, each figure as a ratio to a plain baseline or to a floor that is measured in the same run.

``python -m benchmarks`` (or ``make bench``) measures and writes ``benchmarks/RESULTS.md``; `benchmarks.families` lists
what there is.
"""
