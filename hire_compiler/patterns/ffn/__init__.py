"""Feed-forward blocks: two or three products, what stands between them, and which neurons the author keeps."""
