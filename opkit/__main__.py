"""``python -m opkit``."""

from __future__ import annotations

import sys

from opkit.cli import main

sys.exit(main())
