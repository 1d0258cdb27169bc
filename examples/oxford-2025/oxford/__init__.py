"""The experiment of Main et al., Nature 638, 383 (2025), as its experimenters would program and analyse it."""
