"""JavaScript, jq and JSON schemas of users, run in processes of their own with limits of time and memory.

The node's process hands a request to one of a few evaluator processes and waits; a script that does not end, eats
memory or breaks its engine costs one of those processes and nothing else. Top down: ``executor`` (work and its
outcome) → ``sandbox`` (requests and answers) → ``pool`` → ``process`` | the evaluator's side: ``evaluator`` →
``javascript`` ``queries`` ``schemas``, held by ``confinement``. ``protocol`` is what the two sides say to each other.
DESIGN.md says which engines, why, and how JavaScript here differs from Conductor's.

Nothing is imported here: an evaluator would have to load it, too.
"""
