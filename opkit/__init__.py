"""opkit: operator learning with a solver backend."""
