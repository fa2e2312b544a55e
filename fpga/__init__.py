"""Boards and bitstreams; so far the generated C header of the instruction set for the HLS view."""
