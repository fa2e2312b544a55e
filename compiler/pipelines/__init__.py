"""From a model to what the backend made of it: the phases of each kind in order."""
