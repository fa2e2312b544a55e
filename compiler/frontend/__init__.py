"""Reads what users have: ONNX models and PEFT directories; recognises quantization and LoRA by structure."""
