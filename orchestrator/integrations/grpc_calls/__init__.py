"""System work of kind GRPC: any unary method of any server, with JSON in and out."""
