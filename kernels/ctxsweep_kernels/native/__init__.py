"""The C implementations: how they are compiled and found, and what they share."""
