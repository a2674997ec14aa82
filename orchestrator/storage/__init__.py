"""The node's database: the applied state of this node, which is searchable and is also the snapshot."""
