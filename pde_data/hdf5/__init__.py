"""The HDF5 dataset format."""
