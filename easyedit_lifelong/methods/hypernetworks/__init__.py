"""The code that hypernetworks share: methods whose network is trained once to turn gradients into weight updates."""
