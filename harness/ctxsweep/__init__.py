"""What a longer context costs, in time, memory and quality, on this architecture and this machine."""

__version__ = "0.1.0"
