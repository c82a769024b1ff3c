"""The network: tokens in, velocity or memory out."""
