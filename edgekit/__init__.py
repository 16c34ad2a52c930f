"""Train in PyTorch, run at the edge, with proof."""
