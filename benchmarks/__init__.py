"""This library measured against others as they are installed from PyPI; a script a target, run by `make bench`."""
