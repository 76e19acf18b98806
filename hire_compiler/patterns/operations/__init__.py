"""What single operations do: products, layouts, reductions, counters of loops; and how a pattern says no."""
