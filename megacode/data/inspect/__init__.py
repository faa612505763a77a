"""What people ask of their data: is the infilling right, which documents did a step see, what is in the shards."""
