"""Every family of heads, on a published model or on a small network of the shapes world that is trained with it."""
