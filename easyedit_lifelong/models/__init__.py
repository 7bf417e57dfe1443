"""Load any Hugging Face causal language model and know its parts."""
