"""Listen to Interpret: a decision in terms of learnt spectral patterns (Parekh et al., NeurIPS 2022)."""
