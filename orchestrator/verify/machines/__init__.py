"""A cluster to be broken: nodes in network namespaces of their own, on disks that keep only what was synced."""
