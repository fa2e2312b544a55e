"""From a recognised model to integer linears: one Relax pass or quantization rule a file."""
