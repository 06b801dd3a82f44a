"""The valid configuration nearest to one that is not."""
