"""DBOS: workflows as a library in the application's process, whose steps are checkpointed in Postgres."""
