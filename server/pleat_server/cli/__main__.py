"""`python -m pleat_server.cli` is `pleat`."""

import sys

from pleat_server.cli import main

sys.exit(main())
