"""What is learned: plain PyTorch around transformers' LLaVA."""
