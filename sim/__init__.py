"""Functional and cycle-exact simulator: runs the package's own bytes."""
