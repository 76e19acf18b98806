"""The kinds of sites: one row of a table each, with what every stage does with it, and the files behind the rows."""
