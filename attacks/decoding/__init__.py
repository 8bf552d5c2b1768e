"""Decoders from smashed data to images, and what they read, mend and are trained on."""
