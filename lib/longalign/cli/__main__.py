"""`python -m longalign.cli` is the command `longalign`."""

import sys

from longalign.cli.main import main

sys.exit(main())
