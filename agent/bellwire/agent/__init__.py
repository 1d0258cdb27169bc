"""What runs on every node: the agent's brain, its driver and its commands."""
