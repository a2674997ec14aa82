"""Redis: the connection that heals, streams with consumer groups, and values."""
