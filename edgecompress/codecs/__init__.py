"""Codecs: ways to keep weights in fewer bytes; the layer runs as before."""
