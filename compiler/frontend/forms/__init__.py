"""Forms of quantized and fused operators that files carry, each rewritten into standard operators: a file a family."""
