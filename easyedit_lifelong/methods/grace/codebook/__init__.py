"""The codebook of GRACE: keys, values, deferral radii, lookup and history."""
