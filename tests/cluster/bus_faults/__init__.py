"""Redis, the network to it and the cluster's leader break under load; afterwards effects equal events, once each."""
