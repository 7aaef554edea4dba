"""Statistics of a fine-tuned model as its owner publishes them: measured on files, guarded, and described."""
