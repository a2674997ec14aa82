"""Redis: a connection that heals, and streams with consumer groups."""
