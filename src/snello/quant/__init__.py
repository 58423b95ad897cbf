"""Number formats of weights. Knows nothing of layers, files or kernels."""
