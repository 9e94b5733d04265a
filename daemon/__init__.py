"""The persona daemon: corrections go in, a better persona comes out."""

__version__ = "0.1.0"
