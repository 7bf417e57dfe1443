"""The editing methods and the ports that a method implements."""
