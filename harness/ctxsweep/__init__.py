"""What a longer context costs on this architecture and this machine."""

__version__ = "0.1.0"
