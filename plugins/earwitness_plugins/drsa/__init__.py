"""Disentangled relevant subspace analysis (Chormai et al., IEEE TPAMI 2024): a decision taken apart into subspaces."""
