"""The activation cache: source rows, the frozen prefix once per picture, parts in storage. No ray."""
