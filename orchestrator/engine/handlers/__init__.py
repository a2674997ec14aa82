"""What each command and each message does: one file per family. `machine` has the table."""
