"""Workflow and task definitions: JSON in Conductor's shape, validated, compiled to what the engine walks."""
