"""The integers of a model, run by LLVM and by NumPy on `isa.numerics`: what the machine must equal."""
