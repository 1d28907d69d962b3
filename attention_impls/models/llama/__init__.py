"""A Llama-shaped Hugging Face model with random weights, and the reference of its decode step."""
