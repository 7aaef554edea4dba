"""What surrounds a job: finding configuration, checking overrides, sweeps and their summaries."""
