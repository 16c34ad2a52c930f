"""BLIP-2 as a source: checkpoints of transformers, and the model in PyTorch as the reference."""
