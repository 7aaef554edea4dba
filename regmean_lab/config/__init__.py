"""Settings: their types and checks, and how the command line composes them."""
