"""Stock PySyncObj under the same faults as our nodes, and the replicated log in its place: what does a seed find?"""
