"""Loggers, what they are given, and the environment of a run."""
