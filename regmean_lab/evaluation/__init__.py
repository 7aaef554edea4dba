"""Metrics and ensembles: from logits to scores."""
