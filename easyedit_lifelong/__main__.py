"""Run the command line as ``python -m easyedit_lifelong``."""

import sys

from easyedit_lifelong.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
