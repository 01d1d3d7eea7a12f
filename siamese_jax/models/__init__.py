"""Networks as pure functions: encoders, comparators and the distances they use."""
