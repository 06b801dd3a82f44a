"""A machine's own speeds, fitted to its runs, and predictions beside what was measured."""
