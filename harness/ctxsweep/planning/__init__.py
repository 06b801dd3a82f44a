"""What a model will cost before anything is loaded, and which to take. Never imports torch."""
