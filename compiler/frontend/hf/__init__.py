"""A Hugging Face directory, config.json and safetensors, as an ONNX model: `directory.read` is its front door."""
