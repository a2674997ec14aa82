"""The gRPC services: a request becomes a command or a query, a result becomes a message, an error becomes a status."""
