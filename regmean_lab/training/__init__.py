"""Training of members, the trainers, devices and processes."""
