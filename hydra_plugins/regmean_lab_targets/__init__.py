"""Hydra finds plugins in the namespace package ``hydra_plugins``; this one makes classes options of ``method``."""
