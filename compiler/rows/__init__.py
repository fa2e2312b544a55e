"""What each operator of the machine is in row operations, once: it drives the emitter and the references."""
