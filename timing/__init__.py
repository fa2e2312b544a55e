"""Exact cycle formulas of each unit (docs/isa.md, Cycles): the compiler chooses by them, the simulator counts with them."""
