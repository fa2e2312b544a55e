"""Backend: tile, plan buffers and memory, emit and link instructions for one target."""
