"""How a model meets data."""
