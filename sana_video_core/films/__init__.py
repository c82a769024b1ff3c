"""A film from a script: its plan, its chunks by name, and the store that keeps them."""
