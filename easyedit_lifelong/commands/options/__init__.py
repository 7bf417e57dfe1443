"""The options of the commands, in a module for each. They import neither torch nor transformers."""
