"""From cached tokens to deltas and measurements: plain classes, which any process can hold. No ray."""
