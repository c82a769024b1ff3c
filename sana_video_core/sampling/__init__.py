"""Noise, noise levels and solvers; clips of fixed length."""
