"""Checkpoints of any origin: validated, compared, aligned, merged and written."""
