"""From volumes to probabilities, masks and a submission: windows, TTA, ensembles, workers and the time budget."""
