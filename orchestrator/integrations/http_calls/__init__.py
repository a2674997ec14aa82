"""System work of kind HTTP: one request, its answer as the task's output."""
