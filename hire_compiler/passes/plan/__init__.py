"""The third stage, pure and without IR: sites, facts and rules become one decision a site.

A rule is chosen, what it leaves open is resolved, rows are counted, bytes are weighed.
"""
