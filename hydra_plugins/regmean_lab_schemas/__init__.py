"""Hydra finds plugins in the namespace package ``hydra_plugins``; this one serves the schemas of all groups."""
