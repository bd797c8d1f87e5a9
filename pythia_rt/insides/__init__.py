"""What is inside a model while it reads a text, in the terms of its checkpoint."""
