"""python -m alexnet"""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, where a file may be named as a module is; this package stays found

    from .cli import main

    main()
