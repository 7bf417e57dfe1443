"""The codebook of GRACE: keys, values and radii; decisions about edits, lookup, history and removal."""
