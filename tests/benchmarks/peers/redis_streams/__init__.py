"""Choreography: three services hand work to each other over Redis Streams, and nobody keeps a workflow's state."""
