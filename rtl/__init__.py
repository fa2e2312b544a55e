"""The machine in Verilog-2001, and the runner that executes memory images on it in Verilator."""
