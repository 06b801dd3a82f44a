"""Which model to take for given needs, why, and on what evidence."""
