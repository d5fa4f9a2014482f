"""An .onnx file as a module of PyTorch: reading it, building its network."""
