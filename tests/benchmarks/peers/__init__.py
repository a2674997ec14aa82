"""Other systems that do the same work on the same machine: installed, started, measured and ended by one command each.

Nothing of them is a requirement of the project: each lives in a directory of its own that git ignores, and what is not
installed is skipped.
"""
