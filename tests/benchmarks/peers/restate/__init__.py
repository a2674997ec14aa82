"""Restate: a server in Rust that journals what handlers in other processes do; one node, or three that replicate."""
