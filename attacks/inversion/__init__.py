"""The optimisation of images and clones, and the choice among its outcomes."""
