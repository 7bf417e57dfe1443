"""What methods share that train on requests: training examples, their passes, and the training loop."""
