"""Evaluation of members, baselines and merges, inside a trainer."""
