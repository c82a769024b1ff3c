"""What a person may choose of the kernels. No torch here: a node's list of choices must not wait for it."""

BACKENDS = ("auto", "triton", "reference")  # dispatch.py says what they mean
PRECISIONS = ("full", "fp8")  # of the large GEMMs
