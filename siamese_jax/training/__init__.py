"""Everything that makes a network: sampling, losses, optimisers, the step and the loop."""
