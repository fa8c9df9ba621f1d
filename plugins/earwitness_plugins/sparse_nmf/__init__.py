"""Sparse-NMF: spectral patterns of unit length, learnt from spectrograms, and how strongly each one sounds when."""
