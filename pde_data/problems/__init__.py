"""One file a family of problems."""
