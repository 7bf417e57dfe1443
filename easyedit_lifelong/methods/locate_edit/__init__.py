"""What methods share that locate facts at MLP layers and edit those (MEMIT): keys, target vectors, solve, weights."""
