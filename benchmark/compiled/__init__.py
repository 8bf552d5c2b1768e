"""Code in C, compiled where it runs if there is a compiler; without it PyTorch does the same, slower."""
