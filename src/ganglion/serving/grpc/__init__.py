"""The Open Inference Protocol v2 over gRPC: a process that translates for the gateway, the one data plane."""
