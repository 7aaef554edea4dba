"""Changes of a model as a LoRA adapter to its base, in PEFT's format."""
