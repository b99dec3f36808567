"""vesuvius_kit: find the papyrus surface in X-ray CT of the Herculaneum scrolls.

Importing the package is cheap: neither torch nor numba is loaded until a module that needs it is imported.
"""

__version__ = "0.1.0"
