"""Listenable Maps for Audio Classifiers: a decoder answers with a mask (Paissan, Ravanelli and Subakan, ICML 2024)."""
