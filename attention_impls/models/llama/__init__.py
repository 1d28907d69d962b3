"""A Llama-shaped Hugging Face model with random weights, and what a decode step must give. No torch here."""
