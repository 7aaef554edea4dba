"""A merge method in a package of its own."""
