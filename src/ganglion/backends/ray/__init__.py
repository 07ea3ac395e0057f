"""On a Ray cluster: Ray finds the nodes and holds the resources, a keeper on each node runs the member processes."""
