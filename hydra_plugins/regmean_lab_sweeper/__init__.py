"""Hydra finds plugins in the namespace package ``hydra_plugins``; this one runs sweeps in stages."""
