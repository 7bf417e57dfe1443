"""Load Hugging Face models, find their parts, and hook, record or skip parts of their forward passes."""
