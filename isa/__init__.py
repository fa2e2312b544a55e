"""The one description of the machine: targets, formats, instructions, registers, integer semantics."""
