"""Scores of anybody's checkpoints on any data: read, matched by labels, tested, compared."""
