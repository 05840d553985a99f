"""Trained models on files."""
