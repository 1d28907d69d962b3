"""Attention in plain tensor operations, for the implementations that are made of them."""
