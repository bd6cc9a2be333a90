"""The figures of all notebooks: importing this package enters each of them in `longalign.report.figures.style.FIGURES`.

One module per topic; a module that is added here is found without being named anywhere. Every figure function reads one
CSV file from the folder it is given, so `make figures` needs neither a model nor torch.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
