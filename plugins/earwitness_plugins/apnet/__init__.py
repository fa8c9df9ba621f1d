"""APNet: a classifier that compares what it hears with stored sounds, and so explains itself (Zinemanas et al.)."""
