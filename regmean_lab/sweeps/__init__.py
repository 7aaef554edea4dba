"""Sweeps: their plan, the stages that their jobs share, the summary at their end."""
