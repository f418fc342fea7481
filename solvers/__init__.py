"""Numerical solvers: discretize, assemble, solve, verify. numpy in, numpy out, no torch."""
