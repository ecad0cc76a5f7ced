"""What several methods share: picking a model, running it, scoring it, training a network, publishing the result."""
