"""Sequence-mixing ops of long-context models; import each from its folder."""
