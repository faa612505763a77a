"""What shows a claim on the user's own configuration."""
