"""Looking at training and models: plots."""
