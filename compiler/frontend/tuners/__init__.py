"""Tuners of PEFT besides LoRA: what the tensors of each do to a linear's weight, a family a file.

Every function gives the change of one module in [in, out]; PEFT's own get_delta_weight is [out, in].
"""
