"""Training: the custom step, the solver, checkpoints, and the loop around them."""
