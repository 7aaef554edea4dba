"""What every room may use: files, downloads, errors, settings that came later."""
