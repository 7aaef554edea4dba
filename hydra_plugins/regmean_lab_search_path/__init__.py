"""Hydra finds plugins in the namespace package ``hydra_plugins``; this one adds folders with a user's own YAML."""
