"""Reading and writing tensors, pictures and videos."""
