"""A cluster in one thread under virtual time: event loop, network, disks, clocks and RPC, all decided by one seed.

`loop` runs programs as processes that can be killed, paused and given clocks of their own; `network`, `disk` and
`machine` are what they run on; `rpc` carries gRPC's calls between them without gRPC's threads.
"""
