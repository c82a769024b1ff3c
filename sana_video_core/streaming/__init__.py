"""One video as a stream of chunks: the state, what extends it, its file, and decoding."""
