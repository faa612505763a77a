"""What a trained model can do: generation, and from it completion and infilling."""
