"""What every package may use: files, downloads, errors, settings that came later."""
