"""Real models and data, brought to a folder: from a wheel, from the Hub, from the form in which they were released."""

import re

FULL = re.compile("No space left|quota exceeded|File too large")
"""What systems and libraries say of a disk without room."""
