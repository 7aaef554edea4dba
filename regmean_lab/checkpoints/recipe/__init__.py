"""Recipes: merges written down in the YAML of mergekit, read, checked and carried out."""
