"""Pretrained models: where they lie, what identifies them, how they are loaded, and how merged ones are written."""
