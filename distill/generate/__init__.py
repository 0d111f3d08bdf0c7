"""Generation: the Engine protocol and what stands behind it."""
