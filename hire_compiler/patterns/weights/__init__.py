"""From an operand of a product back to the argument of ``@main`` that holds it, however it is stored."""
