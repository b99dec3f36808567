"""Training: the loop, its policies and learning rate, what it keeps of a run, and its processes."""
