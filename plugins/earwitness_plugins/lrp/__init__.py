"""Layer-wise relevance propagation (Bach et al., 2015), on Zennit's rules."""
