"""``python -m easyedit_lifelong``."""

import sys

from easyedit_lifelong.cli import main

if __name__ == "__main__":
    sys.exit(main())
