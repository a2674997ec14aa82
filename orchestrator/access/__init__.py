"""Who may do what: principals and how they are known, roles and grants, limits, and the record of what was done.

Nothing here knows gRPC: `rpc.guard` asks. The page is ACCESS.md.
"""
