"""Clean sets: opening them, bringing images to the model's shape, and preparing its input."""
