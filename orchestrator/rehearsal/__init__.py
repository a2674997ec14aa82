"""Rehearsals: a workflow as it would run, with outcomes that were given beforehand in the place of its tasks."""
