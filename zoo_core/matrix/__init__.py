"""The capability matrix: what the core itself cannot do yet, what tests have proved, and what follows for each cell."""
