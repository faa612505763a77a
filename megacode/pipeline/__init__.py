"""Links between neighbouring stages, and the runner that executes a schedule."""
