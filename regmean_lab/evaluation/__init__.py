"""What evaluates members, baselines and merges, inside a trainer."""
