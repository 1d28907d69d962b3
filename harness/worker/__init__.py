"""The process that holds the tensors and runs the implementations. Only its modules import torch.

It needs torch, numpy and this project's source; neither Hydra nor pandas.
"""
