"""Recipes: merges described in mergekit's YAML, parsed, checked and executed."""
