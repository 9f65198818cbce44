"""The device: source, preprocess, head, encode, send, record."""
