"""Whole transformers on the machine: attention, norms and activation functions between embedding rows and logits."""
