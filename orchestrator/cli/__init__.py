"""The command line: it parses, calls and prints; what it decides is only which exit code a script gets."""
