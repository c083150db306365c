"""What is written and read: the parameter file and all it stands on. Knows nothing of the fit."""
