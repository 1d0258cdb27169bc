"""What an agent drives: the backend interface, how backends are found, and the check that every backend must pass."""
