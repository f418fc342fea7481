"""PDE and ODE data with evidence: problems, random fields, generation, the HDF5 format."""
