"""What starts executions, and moves them on, by itself: schedules and event handlers."""
