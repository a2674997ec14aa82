"""What each type of task does when its turn comes: one file per type, one small interface, one registry."""
