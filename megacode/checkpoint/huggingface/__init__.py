"""Hugging Face folders: names, configuration, export and its check."""
