"""Multigrid: PyAMG for any sparse operator, and compiled geometric multigrid on grids."""
