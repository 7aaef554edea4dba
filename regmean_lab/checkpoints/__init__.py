"""Checkpoints of any origin: read with suspicion, compared, aligned, and written as they are merged."""
