"""The command line: one module per verb, with ``HELP``, ``add_arguments(parser)`` and ``run(arguments)``."""
