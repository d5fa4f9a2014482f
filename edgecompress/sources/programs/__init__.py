"""A program of torch.export (.pt2) as a module of PyTorch: reading the archive, building its network."""
