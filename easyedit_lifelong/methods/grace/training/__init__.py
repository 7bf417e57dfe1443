"""How GRACE trains the values of its codebook."""
