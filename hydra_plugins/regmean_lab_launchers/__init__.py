"""Hydra launcher that hands the jobs of a sweep to Ray."""
