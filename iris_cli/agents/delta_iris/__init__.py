"""Δ-IRIS (Micheli, Alonso, Fleuret, ICML 2024): four tokens for what changes between frames, not sixteen for each."""
