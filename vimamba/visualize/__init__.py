"""Plots and pictures of data, predictions and training."""
