"""ONNX and PEFT adapters to a program for the machine: frontend, Relax passes, backend."""
